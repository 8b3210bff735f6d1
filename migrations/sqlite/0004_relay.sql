-- What other apps are told: each event once, each delivery of it to an endpoint, and each try of that.
--
-- The payload is the message as it is sent, to the byte, and so text: an endpoint's signature is over these bytes. payload ->> '$.event'
-- reads into it. The id is evt_ and a UUIDv7 in hexadecimal: it sorts by time, and stays the same over endpoints, tries and replays.
CREATE TABLE IF NOT EXISTS relay_events (
    id text PRIMARY KEY,
    event text NOT NULL,
    model text NOT NULL,
    image text,
    payload text NOT NULL,
    created_at text NOT NULL
);

-- status: 'pending'; 'leased', somebody works on it until due_at, under the lease's name; 'retrying', after a try that failed;
-- 'delivered', 'failed', 'filtered' (not wanted by the endpoint's own filter): these are final, at completed_at.
-- image is set where the endpoint is told in order: what is earlier about the same image comes first.
-- due_at is when it is to be worked on next, and NULL where it is not. payload is the message as it was sent, where the endpoint's
-- settings make it another than the event's.
CREATE TABLE IF NOT EXISTS relay_deliveries (
    id integer PRIMARY KEY,
    event_id text NOT NULL,
    endpoint text NOT NULL,
    image text,
    status text NOT NULL DEFAULT 'pending',
    due_at text,
    lease text,
    attempts integer NOT NULL DEFAULT 0,
    status_code integer,
    error text NOT NULL DEFAULT '',
    payload text,
    created_at text NOT NULL,
    completed_at text,
    CONSTRAINT relay_deliveries_status_check CHECK (status IN ('pending', 'leased', 'delivered', 'retrying', 'failed', 'filtered')),
    CONSTRAINT relay_deliveries_times_check CHECK (
        (due_at IS NOT NULL) = (status IN ('pending', 'leased', 'retrying')) AND (completed_at IS NOT NULL) = (due_at IS NULL)
        AND (lease IS NOT NULL) = (status = 'leased')
    )
);

-- Finds what is due, and finds at once that nothing is.
CREATE INDEX IF NOT EXISTS relay_deliveries_due ON relay_deliveries (endpoint, due_at, id) WHERE due_at IS NOT NULL;

-- Finds what has to come before, for an endpoint that is told in order.
CREATE INDEX IF NOT EXISTS relay_deliveries_order ON relay_deliveries (endpoint, image, id)
    WHERE due_at IS NOT NULL AND image IS NOT NULL;

-- Finds whether anybody is still to be told of an event.
CREATE INDEX IF NOT EXISTS relay_deliveries_event ON relay_deliveries (event_id);

-- Finds what was given up, to be counted and replayed.
CREATE INDEX IF NOT EXISTS relay_deliveries_failed ON relay_deliveries (endpoint, id) WHERE status = 'failed';

CREATE TABLE IF NOT EXISTS relay_attempts (
    id integer PRIMARY KEY,
    delivery_id integer NOT NULL,
    number integer NOT NULL,
    started_at text NOT NULL,
    duration_ms integer NOT NULL,
    status_code integer,
    error text NOT NULL DEFAULT ''
);

CREATE INDEX IF NOT EXISTS relay_attempts_delivery ON relay_attempts (delivery_id, id);

-- What is known of an endpoint beside its settings. Nothing is delivered to one that is paused.
CREATE TABLE IF NOT EXISTS relay_endpoints (
    name text PRIMARY KEY,
    paused_at text,
    pause_reason text NOT NULL DEFAULT ''
);

-- What is deleted takes its tries along, and its event when nobody else was told of it or is to be. (In Postgres, the statement that
-- deletes does so.)
CREATE TRIGGER IF NOT EXISTS relay_deliveries_deleted AFTER DELETE ON relay_deliveries
BEGIN
    DELETE FROM relay_attempts WHERE delivery_id = OLD.id;
    DELETE FROM relay_events WHERE id = OLD.event_id AND NOT EXISTS (SELECT 1 FROM relay_deliveries WHERE event_id = OLD.event_id);
END;
