-- The images, with the columns that Postgres has too. SQLite keeps a uuid and JSON as text, a boolean as 0 or 1, and a time as
-- RFC 3339 text in UTC with six digits of a second, so that the texts sort as the instants do.
--
-- A default on every column, so that INSERT INTO cloudflare_images (cloudflare_id) VALUES ('…') registers an upload.
-- 30 minutes is how long Cloudflare's upload URL lives when nothing else was asked for.
--
-- status_at is the time of the notification that told the status; details_at holds, for each detail that a notification has
-- told, that notification's time in microseconds since 1970; a draft's, which any other's replaces, apart:
-- {"filename": 1704110400000000, "creator": {"draft": 1704110300000000}}.
--
-- An id is a UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, the version, the variant, and random bits. Images that are
-- registered one after another then stand side by side in every index by id, and their webhooks, which come soon after that,
-- change few pages.
CREATE TABLE IF NOT EXISTS cloudflare_images (
    id text PRIMARY KEY NOT NULL DEFAULT (
        printf(
            '%08x-%04x-7%03x-%04x-%012x',
            CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS integer) >> 16,
            CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS integer) & 0xffff,
            random() & 0xfff,
            0x8000 | (random() & 0x3fff),
            random() & 0xffffffffffff
        )
    ),
    cloudflare_id text NOT NULL CONSTRAINT cloudflare_images_cloudflare_id_key UNIQUE,
    user_id integer,
    filename text NOT NULL DEFAULT '',
    original_filename text NOT NULL DEFAULT '',
    content_type text NOT NULL DEFAULT '',
    file_size integer,
    upload_url text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'pending',
    require_signed_urls boolean NOT NULL DEFAULT 0,
    metadata text NOT NULL DEFAULT '{}',
    creator text NOT NULL DEFAULT '',
    created_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    updated_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    uploaded_at text,
    expires_at text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '+30 minutes')),
    width integer,
    height integer,
    format text NOT NULL DEFAULT '',
    variants text NOT NULL DEFAULT '[]',
    cloudflare_metadata text NOT NULL DEFAULT '{}',
    last_referenced_at text,
    error text NOT NULL DEFAULT '',
    status_at text,
    details_at text NOT NULL DEFAULT '{}',
    CONSTRAINT cloudflare_images_status_check CHECK (status IN ('pending', 'draft', 'uploaded', 'failed', 'expired'))
);
