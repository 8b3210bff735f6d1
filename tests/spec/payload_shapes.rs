//! The payload shapes: a test message, Cloudflare's envelope, an event and a flat report.

use serde_json::json;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;

const ID: &str = "2cdc28f0-017a-49c4-9ed7-87056c83901";

on_both_databases!(
    flat_upload_stores_details,
    flat_error_marks_image_failed,
    flat_error_object_marks_image_failed,
    draft_wins_over_uploaded_field,
    details_only_report_leaves_status_unchanged,
    event_marks_image_uploaded,
    rejects_other_events,
    envelope_status_word_sets_status,
    envelope_id_is_found_at_each_pointer,
    envelope_failure_stores_its_error,
    pointers_are_configurable,
    ignores_other_alert_types,
    accepts_any_test_message,
    ignores_unknown_fields_and_null,
    ids_are_opaque_text,
    accepts_any_content_type,
);

async fn flat_upload_stores_details(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app
        .post_webhook(
            json!({
                "id": ID,
                "uploaded": "2024-01-01T12:00:00.000Z",
                "variants": ["https://imagedelivery.net/Vi7wi5KSItxGFsWRG2Us6Q/2cdc28f0/public"],
                "metadata": {"key": "value"},
                "requireSignedURLs": true
            })
            .to_string(),
        )
        .await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "uploaded"})
    );
    let image = app.database.image(ID).await;
    assert_eq!(image["status"], "uploaded");
    assert_eq!(image["status_at"], "2024-01-01T12:00:00.000000Z");
    assert_eq!(image["uploaded_at"], "2024-01-01T12:00:00.000000Z");
    assert_eq!(
        image["variants"],
        json!(["https://imagedelivery.net/Vi7wi5KSItxGFsWRG2Us6Q/2cdc28f0/public"])
    );
    assert_eq!(image["cloudflare_metadata"], json!({"key": "value"}));
    assert_eq!(image["require_signed_urls"], true);
}

async fn flat_error_marks_image_failed(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app.post_webhook(json!({
        "id": ID, "error": "Image processing failed", "timestamp": "2024-01-01T12:00:00.000Z",
    }).to_string()).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "failed"})
    );
    let image = app.database.image(ID).await;
    assert_eq!(
        (&image["status"], &image["error"]),
        (&json!("failed"), &json!("Image processing failed"))
    );
}

async fn flat_error_object_marks_image_failed(database: Database) {
    let app = App::start(database).await;
    for (id, error) in [
        ("object", json!({"code": 9422, "message": "bad"})),
        ("array", json!([{"code": 9422}])),
    ] {
        app.database.register(id).await;

        let answer = app
            .post_webhook(json!({"id": id, "error": error}).to_string())
            .await;

        assert_eq!(
            answer.body,
            json!({"outcome": "applied", "id": id, "status": "failed"})
        );
        assert_eq!(app.database.image(id).await["error"], error.to_string());
    }
}

async fn draft_wins_over_uploaded_field(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app
        .post_webhook(
            json!({"id": ID, "draft": true, "uploaded": "2024-01-01T12:00:00Z"}).to_string(),
        )
        .await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "draft"})
    );
    assert_eq!(app.database.image(ID).await["uploaded_at"], json!(null));
}

async fn details_only_report_leaves_status_unchanged(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app
        .post_webhook(
            json!({"id": ID, "meta": {"a": 1}, "filename": "cat.jpg", "creator": "ann"})
                .to_string(),
        )
        .await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "pending"})
    );
    let image = app.database.image(ID).await;
    assert_eq!(
        (&image["filename"], &image["creator"]),
        (&json!("cat.jpg"), &json!("ann"))
    );
    assert_eq!(image["cloudflare_metadata"], json!({"a": 1}));
}

async fn event_marks_image_uploaded(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app.post_webhook(json!({
            "event": "image.uploaded",
            "timestamp": "2025-01-15T10:30:45.123Z",
            "accountId": "abc123",
            "image": {
                "id": ID,
                "filename": "profile.jpg",
                "uploaded": "2025-01-15T10:30:45.000Z",
                "requireSignedURLs": false,
                "variants": ["https://imagedelivery.net/Vi7wi5KSItxGFsWRG2Us6Q/2cdc28f0.../public"],
                "metadata": {"userId": "user_12345", "source": "profile_upload"}
            }
        }).to_string()).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "uploaded"})
    );
    let image = app.database.image(ID).await;
    assert_eq!(image["filename"], "profile.jpg");
    assert_eq!(image["status_at"], "2025-01-15T10:30:45.123000Z");
    assert_eq!(image["uploaded_at"], "2025-01-15T10:30:45.000000Z");
    assert_eq!(
        image["cloudflare_metadata"],
        json!({"userId": "user_12345", "source": "profile_upload"})
    );
}

async fn rejects_other_events(database: Database) {
    let app = App::start(database).await;

    let answer = app
        .post_webhook(json!({"event": "image.deleted", "image": {"id": ID}}).to_string())
        .await;

    assert_eq!(answer.outcome(), (400, "invalid-payload"));
    assert_eq!(answer.body["field"], "event");
}

async fn envelope_status_word_sets_status(database: Database) {
    let app = App::start(database).await;
    for (word, status) in [
        ("success", "uploaded"),
        ("uploaded", "uploaded"),
        ("ready", "uploaded"),
        ("draft", "draft"),
        ("pending", "draft"),
        ("failure", "failed"),
    ] {
        app.database.register(word).await;

        let answer = app
            .post_webhook(envelope(&json!({"image": {"id": word, "status": word}})).to_string())
            .await;

        assert_eq!(
            answer.body,
            json!({"outcome": "applied", "id": word, "status": status})
        );
        assert_eq!(
            app.database.image(word).await["status_at"],
            "2006-01-02T22:04:05.000000Z",
            "ts is in Unix seconds"
        );
    }
    assert_eq!(
        app.database.image("failure").await["error"],
        "Cloudflare reported the status \"failure\""
    );
}

async fn envelope_id_is_found_at_each_pointer(database: Database) {
    let app = App::start(database).await;
    for (number, data) in [
        json!({"image": {"id": "image-0", "status": "success"}}),
        json!({"id": "image-1", "status": "success"}),
        json!({"image_id": "image-2", "status": "success"}),
        json!({"imageId": "image-3", "status": "success"}),
        json!({"image": {"id": null, "status": null}, "id": "image-4", "status": "success"}),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("image-{number}");
        app.database.register(&id).await;

        let answer = app.post_webhook(envelope(&data).to_string()).await;

        assert_eq!(
            answer.body,
            json!({"outcome": "applied", "id": id, "status": "uploaded"})
        );
    }
}

async fn envelope_failure_stores_its_error(database: Database) {
    let app = App::start(database).await;
    for (id, data, error) in [
        (
            "text",
            json!({"image": {"id": "text", "status": "failed", "error": "too big"}}),
            "too big",
        ),
        (
            "object",
            json!({"image": {"id": "object", "error": {"code": 9422, "message": "bad"}}}),
            r#"{"code":9422,"message":"bad"}"#,
        ),
        (
            "data",
            json!({"id": "data", "status": "rejected", "error": "no image"}),
            "no image",
        ),
    ] {
        app.database.register(id).await;

        let answer = app.post_webhook(envelope(&data).to_string()).await;

        assert_eq!(
            answer.body,
            json!({"outcome": "applied", "id": id, "status": "failed"})
        );
        assert_eq!(app.database.image(id).await["error"], error);
    }
}

async fn pointers_are_configurable(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__WEBHOOK__ENVELOPE__ID_POINTERS", "/data/asset/key"),
            (
                "APP__WEBHOOK__ENVELOPE__STATUS_POINTERS",
                r#"["/data/asset/state"]"#,
            ),
        ],
    )
    .await;
    app.database.register("deep").await;

    let answer = app
        .post_webhook(envelope(&json!({"asset": {"key": "deep", "state": "ready"}})).to_string())
        .await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": "deep", "status": "uploaded"})
    );
}

async fn ignores_other_alert_types(database: Database) {
    let app = App::start(database).await;
    for body in [
        json!({"name": "n", "text": "t", "data": {"zone": "z"}, "ts": 1, "alert_type": "dos_attack_l7"}),
        json!({"name": "n", "text": "t", "data": null, "alert_type": "billing_usage_alert"}),
    ] {
        let answer = app.post_webhook(body.to_string()).await;

        assert_eq!(
            (answer.status.as_u16(), answer.body),
            (200, json!({"outcome": "ignored"}))
        );
    }
    assert_eq!(
        app.database.log_types().await,
        ["webhook_ignored", "webhook_ignored"]
    );
}

async fn accepts_any_test_message(database: Database) {
    let app = App::start(database).await;
    for text in [
        "Hello World! This is a test message sent from https://cloudflare.com. If you can see this, your webhook is configured properly.",
        "Hello World! This is a test message. If you can see this, your webhook is configured correctly.\n",
        "TEST MESSAGE",
    ] {
        let answer = app.post_webhook(json!({"text": text}).to_string()).await;

        assert_eq!(
            (answer.status.as_u16(), answer.body),
            (200, json!({"outcome": "test"}))
        );
    }
    for text in ["An image was uploaded", "a test", ""] {
        let answer = app.post_webhook(json!({"text": text}).to_string()).await;

        assert_eq!(answer.outcome(), (400, "invalid-payload"), "{text}");
    }
    assert_eq!(app.database.log_types().await, ["webhook_test"; 3]);
}

async fn ignores_unknown_fields_and_null(database: Database) {
    let app = App::start(database).await;
    app.database.register(ID).await;

    let answer = app.post_webhook(json!({
            "id": ID, "uploaded": "2024-01-01T12:00:00Z", "error": null, "draft": null, "metadata": null, "variants": null,
            "filename": null, "new": {"field": [1, 2]}
        }).to_string()).await;

    assert_eq!(
        answer.body,
        json!({"outcome": "applied", "id": ID, "status": "uploaded"})
    );
}

async fn ids_are_opaque_text(database: Database) {
    let app = App::start(database).await;
    for id in [
        "users/42/avatar.png",
        "it's \"quoted\" \\ here",
        "🦀 and é",
        "'; DROP TABLE cloudflare_images; --",
        &"x".repeat(1024),
    ] {
        app.database.register(id).await;

        let answer = app
            .post_webhook(json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
            .await;

        assert_eq!(
            answer.body,
            json!({"outcome": "applied", "id": id, "status": "uploaded"})
        );
        assert_eq!(app.database.image(id).await["status"], "uploaded");
    }
}

async fn accepts_any_content_type(database: Database) {
    let app = App::start(database).await;
    for content_type in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        let request = app
            .request(r#"{"text":"test message"}"#)
            .header("content-type", content_type)
            .header("cf-webhook-auth", crate::support::signing::SECRET);

        let answer = crate::support::app::response_to(request).await;

        assert_eq!(answer.outcome(), (200, "test"), "{content_type}");
    }
}

fn envelope(data: &serde_json::Value) -> serde_json::Value {
    json!({
        "name": "Images uploads", "text": "…", "data": data, "ts": 1_136_239_445, "account_id": "a", "policy_id": "p",
        "policy_name": "n", "alert_type": "image_notification", "alert_correlation_id": "c", "alert_event": "e"
    })
}
