-- The work of one applied webhook as one statement in one transaction, without the transition rule.
-- The clients take turns over the images, in the order in which the images were registered.
\set turn :turn + 1
\set image (:turn * :clients + :client_id) % :images + 1
\set name (:image * 2654435761) % 4294967296
WITH event AS (
    SELECT lpad(to_hex(:name::bigint), 8, '0') || '-017a-49c4-9ed7-87056c83901' AS cloudflare_id
), image AS (
    UPDATE cloudflare_images AS image
    SET status = 'uploaded', status_at = now(), uploaded_at = now(), error = '', updated_at = now()
    FROM event
    WHERE image.cloudflare_id = event.cloudflare_id AND (image.status_at IS NULL OR image.status_at <= now())
    RETURNING image.id, image.cloudflare_id
)
INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
SELECT id, 'webhook_received', 'the image went from pending to uploaded',
    ('{"payload":{"account_id":"9a7806061c88ada191ed06f989cc3dac","alert_correlation_id":"7c4a5b6c0f2e4f0d8c3b2a1908f7e6d5","alert_type":"image_notification","data":{"image":{"id":"' || cloudflare_id || '","status":"success"}},"name":"Images uploads","policy_id":"0da2b59ef118439d8097bdfb215203c9","policy_name":"Images uploads","text":"An image was uploaded","ts":1704110400}}')::jsonb,
    now()
FROM image;
