-- The images, with the same columns as in Postgres. SQLite stores a UUID and JSON as text, and a boolean as 0 or 1. It stores a
-- time as RFC 3339 text in UTC with six decimal digits of a second, so texts sort like times.
--
-- Every column has a default, so INSERT INTO cloudflare_images (cloudflare_id) VALUES ('…') registers an image. By default,
-- Cloudflare's upload URL is valid for 30 minutes.
--
-- The id is a UUIDv7 (RFC 9562, section 5.7). Images that are registered together have neighboring ids. Their webhooks follow
-- soon, and change few index pages.
--
-- The expression has the milliseconds since 1970, the version, the variant and random bits.
--
-- status_at is the time of the notification that reported the status.
--
-- details_at is JSON. For each reported detail, it has the time of the notification, in microseconds since 1970. The time of a
-- draft is in an object, because any other notification replaces a draft:
-- {"filename": 1704110400000000, "creator": {"draft": 1704110300000000}}.
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
