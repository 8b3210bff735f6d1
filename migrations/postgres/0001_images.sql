-- An app may read an adopted table for a long time. While this migration waits for the lock, all other queries wait behind it. So
-- the migration fails after 10 s. It runs again at the next start.
SET LOCAL lock_timeout = '10s';

-- The images. A table that the Django toolkit created is adopted. It has the columns below, and its rows stay unchanged.
CREATE TABLE IF NOT EXISTS cloudflare_images (
    id uuid PRIMARY KEY,
    cloudflare_id text NOT NULL CONSTRAINT cloudflare_images_cloudflare_id_key UNIQUE,
    user_id integer,
    filename text NOT NULL,
    original_filename text NOT NULL,
    content_type varchar(100) NOT NULL,
    file_size integer,
    upload_url varchar(500) NOT NULL,
    status varchar(20) NOT NULL,
    require_signed_urls boolean NOT NULL,
    metadata jsonb NOT NULL,
    creator text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    uploaded_at timestamptz,
    expires_at timestamptz NOT NULL,
    width integer,
    height integer,
    format varchar(10) NOT NULL,
    variants jsonb NOT NULL,
    cloudflare_metadata jsonb NOT NULL,
    last_referenced_at timestamptz
);

-- Cloudflare's ids have up to 1024 characters. Cloudflare also decides the length of file names and creators. Postgres rewrites
-- no rows, because it stores varchar and text alike.
ALTER TABLE cloudflare_images
    ALTER COLUMN cloudflare_id TYPE text,
    ALTER COLUMN filename TYPE text,
    ALTER COLUMN original_filename TYPE text,
    ALTER COLUMN creator TYPE text;

-- Every column has a default, so INSERT INTO cloudflare_images (cloudflare_id) VALUES ('…') registers an image. By default,
-- Cloudflare's upload URL is valid for 30 minutes.
--
-- The id is a UUIDv7 (RFC 9562, section 5.7). Images that are registered together have neighboring ids. Their webhooks follow
-- soon, and change few index pages.
--
-- The expression starts with a random UUID (version 4). It replaces the first 48 bits by the milliseconds since 1970. Two more
-- bits change the version to 7. Postgres 18 has the function uuidv7() instead.
ALTER TABLE cloudflare_images
    ALTER COLUMN id SET DEFAULT encode(
        set_bit(set_bit(overlay(
            uuid_send(gen_random_uuid())
            PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
        ), 52, 1), 53, 1),
        'hex'
    )::uuid,
    ALTER COLUMN filename SET DEFAULT '',
    ALTER COLUMN original_filename SET DEFAULT '',
    ALTER COLUMN content_type SET DEFAULT '',
    ALTER COLUMN upload_url SET DEFAULT '',
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN require_signed_urls SET DEFAULT false,
    ALTER COLUMN metadata SET DEFAULT '{}',
    ALTER COLUMN creator SET DEFAULT '',
    ALTER COLUMN created_at SET DEFAULT now(),
    ALTER COLUMN updated_at SET DEFAULT now(),
    ALTER COLUMN expires_at SET DEFAULT now() + interval '30 minutes',
    ALTER COLUMN format SET DEFAULT '',
    ALTER COLUMN variants SET DEFAULT '[]',
    ALTER COLUMN cloudflare_metadata SET DEFAULT '{}';

-- These columns do not exist in the Django toolkit's table.
--
-- status_at is the time of the notification that reported the status.
--
-- details_at is JSON. For each reported detail, it has the time of the notification, in microseconds since 1970. The time of a
-- draft is in an object, because any other notification replaces a draft:
-- {"filename": 1704110400000000, "creator": {"draft": 1704110300000000}}.
ALTER TABLE cloudflare_images
    ADD COLUMN IF NOT EXISTS error text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS status_at timestamptz,
    ADD COLUMN IF NOT EXISTS details_at text NOT NULL DEFAULT '{}';

-- Every webhook rewrites its image's row. If the page has space for the new version, no index needs a new entry (HOT update).
-- Half of each page stays free, because images that are registered together are often uploaded together.
ALTER TABLE cloudflare_images SET (fillfactor = 50);

-- NOT VALID: Postgres checks every row that is written from now on, but not the existing rows of an adopted table.
ALTER TABLE cloudflare_images
    DROP CONSTRAINT IF EXISTS cloudflare_images_status_check,
    ADD CONSTRAINT cloudflare_images_status_check
        CHECK (status IN ('pending', 'draft', 'uploaded', 'failed', 'expired')) NOT VALID;
