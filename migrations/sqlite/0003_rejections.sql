-- The rejections: webhooks that were not applied, with the reason. An operator can inspect them, and apply them later.
--
-- The columns:
-- - status, reason: the HTTP status and the problem type of the response.
-- - body: up to 64 KiB of the request body; NULL for a count.
-- - body_bytes: the length of the whole body.
--
-- The states:
-- - 'stored': stored for an operator.
-- - 'parked': waits for its image's row since parked_at. It is applied when the row exists.
-- - 'applied': applied at settled_at, with this outcome.
-- - 'failed': too many attempts to apply it failed. settled_at is the time of the last attempt, and outcome its error.
-- - 'counted': the number of refused requests from the network client_address, in the minute that begins at received_at.
CREATE TABLE IF NOT EXISTS webhook_rejections (
    id integer PRIMARY KEY,
    received_at text NOT NULL,
    status integer NOT NULL,
    reason text NOT NULL,
    problem text NOT NULL DEFAULT '',
    scheme text NOT NULL DEFAULT '',
    client_address text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    cloudflare_id text,
    body blob,
    body_bytes integer NOT NULL DEFAULT 0,
    count integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'stored',
    parked_at text,
    attempts integer NOT NULL DEFAULT 0,
    settled_at text,
    outcome text NOT NULL DEFAULT '',
    CONSTRAINT webhook_rejections_state_check CHECK (state IN ('stored', 'parked', 'applied', 'failed', 'counted')),
    CONSTRAINT webhook_rejections_times_check CHECK (
        (state <> 'parked' OR parked_at IS NOT NULL) AND (state NOT IN ('applied', 'failed') OR settled_at IS NOT NULL)
    )
);

-- One count for each minute, reason, scheme and network.
CREATE UNIQUE INDEX IF NOT EXISTS webhook_rejections_counted ON webhook_rejections (received_at, reason, scheme, client_address)
    WHERE state = 'counted';

-- Finds parked rejections. The index is empty if there are none.
CREATE INDEX IF NOT EXISTS webhook_rejections_parked ON webhook_rejections (id) WHERE state = 'parked';
