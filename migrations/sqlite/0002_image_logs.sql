-- The audit trail: what was received, and what it did. image_id is no foreign key, because the trail outlives its image, and
-- is NULL where a notification was about no image.
CREATE TABLE IF NOT EXISTS cloudflare_image_logs (
    id integer PRIMARY KEY,
    image_id text,
    event_type text NOT NULL,
    message text NOT NULL DEFAULT '',
    data text NOT NULL DEFAULT '{}',
    timestamp text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);

-- Serves an app that shows the trail of one image.
CREATE INDEX IF NOT EXISTS cloudflare_image_logs_image_id_timestamp ON cloudflare_image_logs (image_id, timestamp);
