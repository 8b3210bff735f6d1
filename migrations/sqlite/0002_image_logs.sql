-- The audit log: each notification and its effect. image_id is not a foreign key, because entries outlive their image. It is NULL
-- if the notification has no image.
CREATE TABLE IF NOT EXISTS cloudflare_image_logs (
    id integer PRIMARY KEY,
    image_id text,
    event_type text NOT NULL,
    message text NOT NULL DEFAULT '',
    data text NOT NULL DEFAULT '{}',
    timestamp text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);

-- Finds the entries of one image, for apps that show them.
CREATE INDEX IF NOT EXISTS cloudflare_image_logs_image_id_timestamp ON cloudflare_image_logs (image_id, timestamp);
