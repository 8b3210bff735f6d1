//! The payloads of events: contents, field filters, conditions and transformations.

use serde_json::{Value, json};

use crate::group_commit::{LONG_TIMEOUT, ONE_WRITER, post_together};
use crate::on_both_databases;
use crate::relay_delivery::{IMAGES, LOGS, start, upload, uploaded, wait_for_statuses};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};

on_both_databases!(
    payload_has_changes_and_current_row,
    publishes_audit_entries,
    audit_payloads_match_rows,
    audit_payload_matches_row_despite_triggers,
    publishes_inserted_image_as_created,
    applies_field_filters,
    when_condition_filters_events,
    transform_sees_only_allowed_fields,
    failing_transform_fails_attempt,
);

async fn payload_has_changes_and_current_row(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    app.database
        .execute(
            "INSERT INTO cloudflare_images (cloudflare_id, metadata, width) \
             VALUES ('image', '{\"album\": 7}', 640)",
            &[],
        )
        .await;

    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let message = subscriber.wait_for(1).await.remove(0);
    let (payload, row) = (message.json(), app.database.image("image").await);
    assert_eq!(payload["id"], message.event_id());
    assert_eq!(
        (&payload["event"], &payload["timestamp"], &payload["user"]),
        (
            &json!("updated"),
            &json!("2024-01-01T12:00:00.000000Z"),
            &Value::Null
        )
    );
    assert_eq!(
        payload["model"],
        json!({"app": "cloudflare_images", "name": "CloudflareImage", "label": IMAGES})
    );
    assert_eq!(
        payload["changes"],
        json!({
            "status": {"old": "pending", "new": "uploaded"},
            "status_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "uploaded_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "filename": {"old": "", "new": "cat.jpg"},
        })
    );
    for (column, value) in payload["object"].as_object().expect("an object") {
        assert_eq!(value, &row[column], "{column}");
    }
    let missing: Vec<&String> = row
        .as_object()
        .expect("an object")
        .keys()
        .filter(|column| payload["object"].get(column).is_none())
        .collect();
    assert_eq!(
        missing,
        ["details_at", "upload_url"],
        "details_at is internal, and upload_url would permit uploads"
    );
}

async fn publishes_audit_entries(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;

    upload(&app, "image").await;
    let _duplicate = app.post_webhook(uploaded("image")).await;

    let payloads: Vec<Value> = subscriber
        .wait_for(2)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut types: Vec<&Value> = payloads
        .iter()
        .map(|payload| &payload["object"]["event_type"])
        .collect();
    types.sort_by_key(ToString::to_string);
    assert_eq!(types, ["webhook_duplicate", "webhook_received"]);
    for payload in &payloads {
        assert_eq!(
            (
                &payload["event"],
                &payload["model"]["label"],
                &payload["changes"]
            ),
            (&json!("created"), &json!(LOGS), &Value::Null)
        );
        assert_eq!(payload["object"]["data"]["payload"]["id"], "image");
        assert_eq!(
            payload["object"]["image_id"],
            app.database.image("image").await["id"]
        );
    }
}

async fn audit_payloads_match_rows(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints =
        json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET}]).to_string();
    let app = App::start_with(
        database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ONE_WRITER,
            LONG_TIMEOUT,
        ],
    )
    .await;
    for id in ["one", "two"] {
        app.database.register(id).await;
    }

    let test =
        json!({"text": "Hello World! This is a test message sent from https://cloudflare.com."})
            .to_string();
    let answers = post_together(
        &app,
        vec![uploaded("two"), uploaded("one"), uploaded("two"), test],
    )
    .await;

    let outcomes: Vec<_> = answers.iter().map(|answer| answer.outcome().1).collect();
    assert_eq!(outcomes, ["applied", "applied", "duplicate", "test"]);
    // The other three events are about images: `one`, `two` and `held`.
    let payloads: Vec<Value> = subscriber
        .wait_for(8)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut payloads: Vec<&Value> = payloads
        .iter()
        .filter(|payload| payload["model"]["label"] == LOGS)
        .collect();
    payloads.sort_by_key(|payload| payload["id"].to_string());
    let rows = app.database.logs().await;
    assert_eq!((payloads.len(), rows.len()), (5, 5));
    for (payload, row) in payloads.iter().zip(&rows) {
        let mut object = payload["object"].clone();
        let cloudflare_id = object
            .as_object_mut()
            .expect("an object")
            .remove("cloudflare_id")
            .expect("the payload has cloudflare_id");
        assert_eq!(&object, row);
        let id_in_row = row["data"]["payload"]["id"]
            .as_str()
            .or(row["data"]["payload"]["data"]["image"]["id"].as_str());
        assert_eq!(cloudflare_id.as_str(), id_in_row);
    }
}

async fn audit_payload_matches_row_despite_triggers(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;
    app.database
        .execute_script(if app.database.is_postgres() {
            "CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO cloudflare_image_logs (event_type) VALUES ('echo');
                 RETURN NULL;
             END $$;
             CREATE TRIGGER echo AFTER INSERT ON cloudflare_image_logs
                 FOR EACH ROW WHEN (NEW.event_type <> 'echo') EXECUTE FUNCTION echo();"
        } else {
            "CREATE TRIGGER echo AFTER INSERT ON cloudflare_image_logs
                 WHEN NEW.event_type <> 'echo' BEGIN
                 INSERT INTO cloudflare_image_logs (event_type) VALUES ('echo');
             END;"
        })
        .await;

    upload(&app, "image").await;
    let _duplicate = app.post_webhook(uploaded("image")).await;

    for payload in subscriber.wait_for(2).await.iter().map(Received::json) {
        let rows = app.database.logs().await;
        let row = rows
            .iter()
            .find(|row| row["id"] == payload["object"]["id"])
            .expect("the audit log has the row");
        assert_eq!(row["message"], payload["object"]["message"]);
    }
}

async fn publishes_inserted_image_as_created(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]}]);
    let app = App::start_with(
        database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints.to_string()),
            ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
        ],
    )
    .await;

    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let payload = subscriber.wait_for(1).await[0].json();
    assert_eq!(
        (
            &payload["event"],
            &payload["changes"],
            &payload["object"]["status"]
        ),
        (&json!("created"), &Value::Null, &json!("uploaded"))
    );
    wait_for_statuses(&app.database, &["delivered"]).await;
}

async fn applies_field_filters(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({
            "include_fields": {"*": ["id", "status", "filename", "creator", "metadata"]},
            "exclude_fields": {"*": ["metadata.secret"], IMAGES: ["creator"]},
            "redact_fields": {IMAGES: {"filename": "***"}},
        }),
    )
    .await;
    app.database
        .execute(
            "INSERT INTO cloudflare_images (cloudflare_id, metadata) \
             VALUES ('image', '{\"secret\": 1, \"album\": 7}')",
            &[],
        )
        .await;

    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let message = subscriber.wait_for(1).await.remove(0);
    let (payload, id) = (
        message.json(),
        app.database.image("image").await["id"].clone(),
    );
    assert_eq!(
        payload["object"],
        json!({"id": id, "status": "uploaded", "filename": "***", "metadata": {"album": 7}})
    );
    assert_eq!(
        payload["changes"],
        json!({"status": {"old": "pending", "new": "uploaded"}, "filename": {"old": "***", "new": "***"}})
    );
    wait_for_statuses(&app.database, &["delivered"]).await;
    let stored = app.database.deliveries().await[0]["payload"].clone();
    assert_eq!(
        stored,
        String::from_utf8(message.body.to_vec()).expect("text"),
        "the stored payload is the sent payload"
    );
}

async fn when_condition_filters_events(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({"when": ".event != \"updated\" or .object.status == \"uploaded\""}),
    )
    .await;
    app.database.register("image").await;

    let draft =
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string();
    assert_eq!(app.post_webhook(draft).await.outcome(), (200, "applied"));
    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    wait_for_statuses(&app.database, &["filtered", "delivered"]).await;
    assert_eq!(subscriber.received().len(), 1);
    assert_eq!(
        app.database.attempts().await.len(),
        1,
        "a filtered event has no attempt"
    );
}

async fn transform_sees_only_allowed_fields(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({
            "exclude_fields": {"*": ["filename"]},
            "transform": "{type: \"image_\\(.object.status)\", id: .object.cloudflare_id, \
                          name: .object.filename, was: .changes.filename.old}",
        }),
    )
    .await;

    upload(&app, "image").await;

    let message = subscriber.wait_for(1).await.remove(0);
    assert_eq!(
        message.json(),
        json!({"type": "image_uploaded", "id": "image", "name": null, "was": null})
    );
    assert!(
        message.event_id().starts_with("evt_"),
        "the header contains the event id"
    );
}

async fn failing_transform_fails_attempt(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({"transform": ".object.filename / 2", "retry": {"max_retries": 0}}),
    )
    .await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["failed"]).await;
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "`transform` ended with an error"
    );
    assert_eq!(subscriber.received().len(), 0);
}
