-- The tables that had rows before this service adopted them. Retention keeps these rows: their ids go up to last_id.
CREATE TABLE IF NOT EXISTS cloudflare_images_webhook_adoptions (
    table_name text PRIMARY KEY NOT NULL,
    last_id integer NOT NULL
);
