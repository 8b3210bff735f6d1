-- The requests for upload URLs that have an idempotency key. A repeated request gets the answer of the first one.
--
-- The columns:
-- - id: the name of the API token, a slash and the key.
-- - request_digest: the SHA-256 of the request, in hex digits. A key belongs to one request.
-- - cloudflare_id: the id of the image; NULL until Cloudflare has made it.
-- - upload_url, expires_at: the answer.
-- - lease: the id of the attempt that creates the upload URL since leased_at. Only this attempt may store its result.
--
-- The states:
-- - 'running': an attempt is in progress. If its lease has expired, a repeated request makes another attempt.
-- - 'interrupted': the last attempt failed, and Cloudflare may have the image. A repeated request makes another attempt.
-- - 'finished': the answer is known.
CREATE TABLE IF NOT EXISTS cloudflare_upload_requests (
    id text PRIMARY KEY,
    request_digest text NOT NULL,
    cloudflare_id text,
    upload_url text,
    expires_at timestamptz,
    state text NOT NULL DEFAULT 'running',
    lease text,
    leased_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT cloudflare_upload_requests_state_check CHECK (state IN ('running', 'interrupted', 'finished')),
    CONSTRAINT cloudflare_upload_requests_lease_check CHECK (
        (state = 'running') = (lease IS NOT NULL) AND (lease IS NULL) = (leased_at IS NULL)
    ),
    CONSTRAINT cloudflare_upload_requests_answer_check CHECK (
        state <> 'finished' OR cloudflare_id IS NOT NULL AND upload_url IS NOT NULL AND expires_at IS NOT NULL
    )
);

-- Finds the oldest requests, which are deleted after a day.
CREATE INDEX IF NOT EXISTS cloudflare_upload_requests_created ON cloudflare_upload_requests (created_at);
