//! Adoption of tables that the Django toolkit created.

use serde_json::{Value, json};

use crate::support::app::App;
use crate::support::database::Database;
use crate::support::wait;

/// The toolkit's schema, as Django creates it.
const DJANGO_SCHEMA: &str = include_str!("../fixtures/django_toolkit.sql");

const UPLOADED: &str = "5f2b1f0e-7a39-4a5c-9d0e-000000000001";

async fn start_on_django_tables() -> App {
    let database = Database::postgres().await;
    database.execute_script(DJANGO_SCHEMA).await;
    App::start(database).await
}

#[tokio::test]
async fn preserves_rows_and_adds_columns() {
    let database = Database::postgres().await;
    database.execute_script(DJANGO_SCHEMA).await;
    let before = database.images_and_logs().await;

    let app = App::start(database).await;

    let mut after = app.database.images_and_logs().await;
    for row in &mut after {
        let row = row.as_object_mut().expect("a row");
        if row.contains_key("cloudflare_id") {
            assert_eq!(
                (
                    row.remove("error"),
                    row.remove("status_at"),
                    row.remove("details_at")
                ),
                (Some(json!("")), Some(Value::Null), Some(json!("{}")))
            );
        }
    }
    assert_eq!(after, before);
    assert_eq!(before.len(), 3);
}

#[tokio::test]
async fn continues_transitions_of_adopted_images() {
    let app = start_on_django_tables().await;

    let pending = app
        .post_webhook(r#"{"id":"django-pending","uploaded":"2024-01-01T12:00:00Z"}"#)
        .await;
    let earlier = app
        .post_webhook(
            r#"{"id":"django-uploaded","error":"late","timestamp":"2020-01-01T00:00:00Z"}"#,
        )
        .await;
    let later = app
        .post_webhook(
            r#"{"id":"django-uploaded","error":"later","timestamp":"2024-01-01T00:00:00Z"}"#,
        )
        .await;

    assert_eq!(
        pending.body,
        json!({"outcome": "applied", "id": "django-pending", "status": "uploaded"})
    );
    assert_eq!(
        earlier.body,
        json!({"outcome": "stale", "id": "django-uploaded", "status": "uploaded"})
    );
    assert_eq!(
        later.body,
        json!({"outcome": "applied", "id": "django-uploaded", "status": "failed"})
    );
}

#[tokio::test]
async fn accepts_minimal_insert_with_long_id() {
    let app = start_on_django_tables().await;
    let long = "x".repeat(1024);

    app.database.register(&long).await;

    assert_eq!(
        app.post_webhook(json!({"id": long, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
            .await
            .body["outcome"],
        "applied"
    );
    assert_eq!(app.database.image(&long).await["status"], "uploaded");
}

#[tokio::test]
async fn accepts_insert_of_every_column() {
    let app = start_on_django_tables().await;

    app.database.execute_script(
        "INSERT INTO cloudflare_images (id, cloudflare_id, user_id, filename, original_filename, content_type, file_size,
             upload_url, status, require_signed_urls, metadata, creator, created_at, updated_at, uploaded_at,
             expires_at, width, height, format, variants,
             cloudflare_metadata, last_referenced_at)
         VALUES ('5f2b1f0e-7a39-4a5c-9d0e-00000000000a', 'django-new', NULL, '', '', '', NULL,
             'https://upload.example/new', 'pending', true, '{}', '',
             now(), now(), NULL, now(), NULL, NULL, '', '[]', '{}', NULL);
         INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
         VALUES ('5f2b1f0e-7a39-4a5c-9d0e-00000000000a', 'upload_url_created', '', '{}', now());",
    ).await;

    assert_eq!(
        app.post_webhook(r#"{"id":"django-new","draft":true}"#)
            .await
            .body["status"],
        "draft"
    );
}

#[tokio::test]
async fn audit_log_outlives_deleted_image() {
    let app = start_on_django_tables().await;

    app.database
        .execute_script(&format!(
            "DELETE FROM cloudflare_images WHERE id = '{UPLOADED}'"
        ))
        .await;

    assert_eq!(app.database.log_types().await, ["upload_url_created"]);
}

#[tokio::test]
async fn start_keeps_old_audit_log() {
    let database = Database::postgres().await;
    database.execute_script(DJANGO_SCHEMA).await;
    database
        .execute_script("UPDATE cloudflare_image_logs SET event_type = 'webhook_received'")
        .await;
    let app = App::start(database).await;
    app.database
        .execute(
            "INSERT INTO cloudflare_image_logs (timestamp, event_type) VALUES ('2000-01-01', 'webhook_received')",
            &[],
        )
        .await;
    let (_, database) = app.stop().await;

    let app = App::start(database).await;

    wait::until_async("the newer entry is deleted", async || {
        app.database.logs().await.len() == 1
    })
    .await;
    assert_eq!(app.database.logs().await[0]["image_id"], UPLOADED);
}

#[tokio::test]
async fn adopted_schema_matches_new_schema() {
    const COLUMNS: &str = "SELECT table_name || '.' || column_name || ' ' || is_nullable || ' ' || coalesce(column_default, 'no default')
        FROM information_schema.columns WHERE table_name IN ('cloudflare_images', 'cloudflare_image_logs')
         AND column_name <> 'user_id' ORDER BY 1";
    let (adopted, new) = (
        start_on_django_tables().await,
        App::start(Database::postgres().await).await,
    );

    assert_eq!(
        adopted.database.texts(COLUMNS).await,
        new.database.texts(COLUMNS).await
    );
}
