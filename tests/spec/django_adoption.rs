//! Tables that the Django toolkit created are taken over as they are.

use serde_json::{Value, json};

use crate::support::app::App;
use crate::support::database::Database;

/// The toolkit's schema, as Django writes it.
const DJANGOS_TABLES: &str = include_str!("../fixtures/django_toolkit.sql");

const UPLOADED: &str = "5f2b1f0e-7a39-4a5c-9d0e-000000000001";

async fn adopted() -> App {
    let database = Database::postgres().await;
    database.execute_script(DJANGOS_TABLES).await;
    App::start(database).await
}

#[tokio::test]
async fn every_row_stays_as_it_was_and_gains_our_columns() {
    let database = Database::postgres().await;
    database.execute_script(DJANGOS_TABLES).await;
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
async fn an_adopted_image_moves_on_from_where_it_was() {
    let app = adopted().await;

    let pending = app
        .deliver(r#"{"id":"django-pending","uploaded":"2024-01-01T12:00:00Z"}"#)
        .await;
    let earlier = app
        .deliver(r#"{"id":"django-uploaded","error":"late","timestamp":"2020-01-01T00:00:00Z"}"#)
        .await;
    let later = app
        .deliver(r#"{"id":"django-uploaded","error":"later","timestamp":"2024-01-01T00:00:00Z"}"#)
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
async fn an_insert_of_one_column_works_there_too_with_an_id_longer_than_djangos() {
    let app = adopted().await;
    let long = "x".repeat(1024);

    app.database.register(&long).await;

    assert_eq!(
        app.deliver(json!({"id": long, "uploaded": "2024-01-01T12:00:00Z"}).to_string())
            .await
            .body["outcome"],
        "applied"
    );
    assert_eq!(app.database.image(&long).await["status"], "uploaded");
}

#[tokio::test]
async fn djangos_insert_of_every_column_still_works() {
    let app = adopted().await;

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
        app.deliver(r#"{"id":"django-new","draft":true}"#)
            .await
            .body["status"],
        "draft"
    );
}

#[tokio::test]
async fn the_audit_trail_loses_its_foreign_key_and_so_outlives_the_image() {
    let app = adopted().await;

    app.database
        .execute_script(&format!(
            "DELETE FROM cloudflare_images WHERE id = '{UPLOADED}'"
        ))
        .await;

    assert_eq!(app.database.log_types().await, ["upload_url_created"]);
}

#[tokio::test]
async fn an_adopted_schema_has_the_columns_defaults_and_constraints_of_a_new_one() {
    const COLUMNS: &str = "SELECT table_name || '.' || column_name || ' ' || is_nullable || ' ' || coalesce(column_default, 'no default')
        FROM information_schema.columns WHERE table_name IN ('cloudflare_images', 'cloudflare_image_logs')
         AND column_name <> 'user_id' ORDER BY 1";
    let (adopted, new) = (
        adopted().await,
        App::start(Database::postgres().await).await,
    );

    assert_eq!(
        adopted.database.texts(COLUMNS).await,
        new.database.texts(COLUMNS).await
    );
}
