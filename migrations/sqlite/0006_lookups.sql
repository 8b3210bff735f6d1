-- Finds images by their age, also in tables whose ids do not grow with time.
CREATE INDEX IF NOT EXISTS cloudflare_images_created ON cloudflare_images (created_at, id);

-- The queue of lookups: images that were still waiting for their upload some time after their creation. The service looks them up
-- at Cloudflare. A row is deleted when the status of its image is final.
--
-- due_at is the time of the next lookup. leased_until is set while a process looks the image up.
CREATE TABLE IF NOT EXISTS cloudflare_image_lookups (
    image_id text PRIMARY KEY NOT NULL,
    due_at text NOT NULL,
    leased_until text,
    attempts integer NOT NULL DEFAULT 0
);

-- Finds due lookups.
CREATE INDEX IF NOT EXISTS cloudflare_image_lookups_due ON cloudflare_image_lookups (due_at);

-- The limit on calls of Cloudflare's API, which all processes share. It has one row. next_call is the time of the next call if all
-- calls had equal distances, in microseconds since 1970. See the generic cell rate algorithm.
CREATE TABLE IF NOT EXISTS cloudflare_api_calls (
    id integer PRIMARY KEY CHECK (id = 1),
    next_call bigint NOT NULL
);
