-- What was not applied, and why: for people to see, and to be applied later. status and reason are what its sender was told.
--
-- The body is there where the sender was proved, up to 64 KiB of the body_bytes that it had.
--
-- state: 'stored'; 'parked', since parked_at, a notification for an image that has no row yet, which is applied when it has one; 'applied', at
-- settled_at, with the outcome; 'failed', where that was tried so many times that it is not tried again by itself; 'counted', how many
-- came without proof in the minute that begins at received_at, from the network in client_address.
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

-- One row for each minute and network.
CREATE UNIQUE INDEX IF NOT EXISTS webhook_rejections_counted ON webhook_rejections (received_at, reason, scheme, client_address)
    WHERE state = 'counted';

-- Finds the parked ones, and finds at once that there are none.
CREATE INDEX IF NOT EXISTS webhook_rejections_parked ON webhook_rejections (id) WHERE state = 'parked';
