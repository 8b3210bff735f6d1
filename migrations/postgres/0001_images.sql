-- An app that reads an adopted table for long must not make everybody queue up behind us; the start fails, and is tried again.
SET LOCAL lock_timeout = '10s';

-- The images. A table that the Django toolkit created is adopted: its columns are the ones below, its rows stay as they are.
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

-- Ids have up to 1024 characters, and file names and creators are Cloudflare's to size. No rewrite: varchar and text are stored alike.
ALTER TABLE cloudflare_images
    ALTER COLUMN cloudflare_id TYPE text,
    ALTER COLUMN filename TYPE text,
    ALTER COLUMN original_filename TYPE text,
    ALTER COLUMN creator TYPE text;

-- A default on every column, so that INSERT INTO cloudflare_images (cloudflare_id) VALUES ('…') registers an upload.
-- 30 minutes is how long Cloudflare's upload URL lives when nothing else was asked for.
--
-- An id is a UUIDv7 (RFC 9562, section 5.7), made of a random one (version 4): milliseconds since 1970 in its first 48 bits, and
-- two bits more in its version. Images that are registered one after another then stand side by side in every index by id, and
-- their webhooks, which come soon after that, change few pages. (Postgres 18 has a function for it.)
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

-- What we add. status_at is the time of the notification that told the status; details_at holds, for each detail that a
-- notification has told, that notification's time in microseconds since 1970; a draft's, which any other's replaces, apart:
-- {"filename": 1704110400000000, "creator": {"draft": 1704110300000000}}.
ALTER TABLE cloudflare_images
    ADD COLUMN IF NOT EXISTS error text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS status_at timestamptz,
    ADD COLUMN IF NOT EXISTS details_at text NOT NULL DEFAULT '{}';

-- Every webhook rewrites its image's row. Room for the new versions in the same page spares them new entries in both indexes (HOT). All
-- rows of a page may be rewritten at once, as images that were registered together are uploaded together.
ALTER TABLE cloudflare_images SET (fillfactor = 50);

-- NOT VALID: it holds for every row written from now on, and asks nothing of the rows of an adopted table.
ALTER TABLE cloudflare_images
    DROP CONSTRAINT IF EXISTS cloudflare_images_status_check,
    ADD CONSTRAINT cloudflare_images_status_check
        CHECK (status IN ('pending', 'draft', 'uploaded', 'failed', 'expired')) NOT VALID;
