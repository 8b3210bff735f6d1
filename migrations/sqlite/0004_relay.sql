-- The events of the outbox. Each event is stored once. It has a delivery for each endpoint that wants it.
--
-- The id is evt_ and a UUIDv7 in hexadecimal. It sorts by time, and is the same for all endpoints, attempts and replays.
--
-- payload is text, because endpoints receive exactly these bytes and signatures cover them. payload ->> '$.event' reads a field.
CREATE TABLE IF NOT EXISTS relay_events (
    id text PRIMARY KEY,
    event text NOT NULL,
    model text NOT NULL,
    image text,
    payload text NOT NULL,
    created_at text NOT NULL
);

-- The deliveries: an event for one endpoint.
--
-- The statuses:
-- - 'pending': waits for its first attempt.
-- - 'leased': a worker has claimed it until due_at, under the name in lease.
-- - 'retrying': waits for the next attempt after a failed one.
-- - 'delivered', 'failed', 'filtered' (excluded by the endpoint's settings): final since completed_at.
--
-- image is set if the endpoint is ordered. Earlier deliveries of the same image must be complete first.
--
-- due_at is the time of the next attempt, or the end of the lease. It is NULL if the delivery is complete.
--
-- payload is the payload that was sent, if the endpoint's settings changed the payload of the event.
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

-- Finds due deliveries. The index has only deliveries that are not complete.
CREATE INDEX IF NOT EXISTS relay_deliveries_due ON relay_deliveries (endpoint, due_at, id) WHERE due_at IS NOT NULL;

-- Finds earlier deliveries of the same image, for ordered endpoints.
CREATE INDEX IF NOT EXISTS relay_deliveries_order ON relay_deliveries (endpoint, image, id)
    WHERE due_at IS NOT NULL AND image IS NOT NULL;

-- Finds the deliveries of an event.
CREATE INDEX IF NOT EXISTS relay_deliveries_event ON relay_deliveries (event_id);

-- Finds failed deliveries, to count and replay them.
CREATE INDEX IF NOT EXISTS relay_deliveries_failed ON relay_deliveries (endpoint, id) WHERE status = 'failed';

-- The attempts of the deliveries.
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

-- The state of endpoints. An endpoint with a paused_at receives no deliveries.
CREATE TABLE IF NOT EXISTS relay_endpoints (
    name text PRIMARY KEY,
    paused_at text,
    pause_reason text NOT NULL DEFAULT ''
);

-- Deletes the attempts of a deleted delivery. Deletes its event if no other delivery needs the event. In Postgres, the statement
-- that deletes the delivery does both.
CREATE TRIGGER IF NOT EXISTS relay_deliveries_deleted AFTER DELETE ON relay_deliveries
BEGIN
    DELETE FROM relay_attempts WHERE delivery_id = OLD.id;
    DELETE FROM relay_events WHERE id = OLD.event_id AND NOT EXISTS (SELECT 1 FROM relay_deliveries WHERE event_id = OLD.event_id);
END;
