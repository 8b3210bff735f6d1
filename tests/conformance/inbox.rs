//! `Inbox`: outcomes and rows of recorded notifications. `tests/spec/inbox_batches.rs` tests the
//! rules of batches.

use std::sync::Arc;

use cloudflare_images_webhook::domain::delivery::DeliveryStatus;
use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::event::{Model, Subscription, Subscriptions};
use cloudflare_images_webhook::domain::image::Status;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{Content, Notification, UnknownImages};
use cloudflare_images_webhook::domain::outcome::{Outcome, RejectionReason};
use cloudflare_images_webhook::domain::rejection::RejectionState;
use cloudflare_images_webhook::store::{DeliveryFilter, Rejection, Store, StoredRequestInfo};
use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::fixture::{Backend, Fixture, on_every_backend, subscription};
use crate::notifications::{at, failed, image_id, invalid, record, undated, uploaded};

on_every_backend!(
    writes_status_details_and_audit_log,
    leaves_unreported_json_unchanged,
    inserts_missing_images,
    recognizes_redelivery_of_undated_report,
    parks_notification_for_unknown_image,
    stores_invalid_body,
    truncates_body_over_64_kib,
    parks_only_bodies_up_to_64_kib,
    publishes_events_in_order_of_changes,
    publishes_subscribed_events_only,
    names_row_with_unknown_status,
);

async fn writes_status_details_and_audit_log(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    let notification = detailed(uploaded("a", 10));

    let outcomes = record(&store, [notification]).await;

    assert_eq!(outcomes, [Outcome::Applied(Status::Uploaded)]);
    let found = store
        .image_catalog
        .find(&image_id("a"))
        .await
        .expect("the query succeeds");
    let found = found.expect("a row");
    let details = &found.state.details;
    assert_eq!(found.state.status, Status::Uploaded);
    assert_eq!(found.state.status_at, Some(at(10)));
    assert_eq!(found.state.uploaded_at, Some(at(10)));
    assert_eq!(found.updated_at, at(10));
    assert_eq!(details.filename.value, "cat.jpg");
    assert_eq!(details.creator.value, "user-1");
    assert!(details.require_signed_urls.value);
    let log = fixture.database.logs().await.remove(0);
    assert_eq!(log["event_type"], "webhook_received");
    assert_eq!(log["data"], json!({"payload": {"event": "upload"}}));
    assert_eq!(log["timestamp"], at(10).to_string());
    assert_eq!(log["image_id"], found.id.to_string());
}

async fn leaves_unreported_json_unchanged(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    record(&store, [detailed(uploaded("a", 10))]).await;

    record(&store, [failed("a", 11)]).await;

    let row = fixture.database.image("a").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], "too large");
    assert_eq!(row["variants"], json!(["https://example.com/a"]));
    assert_eq!(row["cloudflare_metadata"], json!({"key": "value"}));
}

async fn inserts_missing_images(fixture: &Fixture) {
    let store = fixture
        .open_with(UnknownImages::Create, Subscriptions::default())
        .await;
    fixture.database.register("old").await;

    let outcomes = record(&store, [uploaded("new", 10), uploaded("old", 10)]).await;

    assert_eq!(outcomes, [Outcome::Applied(Status::Uploaded); 2]);
    let row = fixture.database.image("new").await;
    assert_eq!(row["status"], "uploaded");
    assert_eq!(row["created_at"], at(10).to_string());
}

async fn recognizes_redelivery_of_undated_report(fixture: &Fixture) {
    let store = fixture.open().await;
    for id in ["a", "b"] {
        fixture.database.register(id).await;
    }
    let first = r#"{"number":1}"#;
    record(&store, [undated("a", first, 10)]).await;
    record(&store, [failed("a", 20)]).await;

    let outcomes = record(
        &store,
        [
            undated("a", first, 30),
            undated("b", first, 30),
            undated("a", r#"{"number":2}"#, 30),
        ],
    )
    .await;

    assert_eq!(
        outcomes,
        [
            Outcome::Duplicate(Status::Failed),
            Outcome::Applied(Status::Uploaded),
            Outcome::Applied(Status::Uploaded),
        ]
    );
}

async fn parks_notification_for_unknown_image(fixture: &Fixture) {
    let store = fixture.open().await;

    let outcomes = record(&store, [uploaded("a", 10)]).await;

    let reason = RejectionReason::UnknownImage;
    assert_eq!(outcomes, [Outcome::Rejected(reason)]);
    let rejection = only_rejection(&store).await;
    let body = br#"{"event":"upload"}"#;
    assert_eq!(rejection.received_at, at(10));
    assert_eq!(rejection.status, 404);
    assert_eq!(rejection.reason, "unknown-image");
    assert_eq!(rejection.problem, "");
    assert_eq!(rejection.request_info, request_info());
    assert_eq!(rejection.cloudflare_id.as_deref(), Some("a"));
    assert_eq!(rejection.whole_body().expect("a body").as_bytes(), body);
    assert_eq!(rejection.count, 1);
    assert_eq!(rejection.state, RejectionState::Parked);
    assert_eq!(rejection.settled_at, None);
    assert_eq!(rejection.outcome, "");
}

async fn stores_invalid_body(fixture: &Fixture) {
    let store = fixture.open().await;
    let body = [0xff, 0x00, b'"'];

    let outcomes = record(&store, [invalid(&body, 10)]).await;

    let reason = RejectionReason::InvalidPayload;
    assert_eq!(outcomes, [Outcome::Rejected(reason)]);
    let rejection = only_rejection(&store).await;
    assert_eq!(rejection.status, 400);
    assert_eq!(rejection.reason, "invalid-payload");
    assert_eq!(rejection.problem, "the body must be JSON");
    assert_eq!(rejection.request_info, request_info());
    assert_eq!(rejection.cloudflare_id, None);
    assert_eq!(rejection.whole_body().expect("a body").as_bytes(), body);
    assert_eq!(rejection.state, RejectionState::Stored);
}

async fn truncates_body_over_64_kib(fixture: &Fixture) {
    const LIMIT: usize = 64 * 1024;
    let store = fixture.open().await;

    let at_limit = vec![b'x'; LIMIT];
    let over_limit = vec![b'x'; LIMIT + 1];
    record(&store, [invalid(&at_limit, 10), invalid(&over_limit, 10)]).await;

    let whole = rejection(&store, 1).await;
    assert_eq!(whole.whole_body().expect("a body").as_bytes(), at_limit);
    let truncated = rejection(&store, 2).await;
    assert_eq!(truncated.body_bytes, 65_537);
    assert_eq!(
        truncated.body.as_ref().expect("a body").as_bytes(),
        at_limit
    );
    assert_eq!(truncated.whole_body(), None);
}

async fn parks_only_bodies_up_to_64_kib(fixture: &Fixture) {
    let store = fixture.open().await;
    let json_of_length =
        |bytes: usize| Json::from_canonical(format!("\"{}\"", "x".repeat(bytes - 2)));
    let with_payload = |payload| Notification {
        payload,
        ..uploaded("a", 10)
    };

    record(
        &store,
        [
            with_payload(json_of_length(65_536)),
            with_payload(json_of_length(65_537)),
        ],
    )
    .await;

    assert_eq!(rejection(&store, 1).await.state, RejectionState::Parked);
    assert_eq!(rejection(&store, 2).await.state, RejectionState::Stored);
}

async fn publishes_events_in_order_of_changes(fixture: &Fixture) {
    let all_models = Subscription {
        models: Model::ALL.to_vec(),
        ..subscription("app")
    };
    let store = fixture
        .open_with(UnknownImages::Create, subscriptions(all_models))
        .await;

    record(&store, [uploaded("a", 10), failed("a", 11)]).await;

    let events: Vec<Value> = fixture.database.events().await;
    let model_and_event = |event: &Value| (event["model"].clone(), event["event"].clone());
    let (images, logs) = (Model::Image.label(), Model::ImageLog.label());
    assert_eq!(
        events.iter().map(model_and_event).collect::<Vec<_>>(),
        [
            (json!(images), json!("created")),
            (json!(logs), json!("created")),
            (json!(images), json!("updated")),
            (json!(logs), json!("created")),
        ]
    );
    assert!(events.iter().all(|event| event["image"] == "a"));
    let entries = fixture.database.logs().await;
    for (event, entry) in [(&events[1], &entries[0]), (&events[3], &entries[1])] {
        let payload: Value = serde_json::from_str(event["payload"].as_str().expect("text"))
            .expect("the payload is JSON");
        assert!(contains(&payload, "id", &entry["id"]), "{payload}");
    }
}

async fn publishes_subscribed_events_only(fixture: &Fixture) {
    let images = subscription("images");
    let logs = Subscription {
        models: vec![Model::ImageLog],
        ordered: true,
        ..subscription("logs")
    };
    let subscriptions = Subscriptions {
        endpoints: vec![images, logs],
        channel: None,
    };
    let store = fixture
        .open_with(UnknownImages::Reject, subscriptions)
        .await;
    fixture.database.register("a").await;
    let test = Notification {
        content: Content::TestMessage,
        ..uploaded("a", 12)
    };

    record(&store, [uploaded("a", 10), uploaded("a", 10), test]).await;

    let deliveries = fixture.database.deliveries().await;
    let deliveries: Vec<_> = deliveries
        .iter()
        .map(|delivery| (delivery["endpoint"].clone(), delivery["image"].clone()))
        .collect();
    // Only ordered endpoints store the image of a delivery.
    assert_eq!(
        deliveries,
        [
            (json!("images"), Value::Null),
            (json!("logs"), json!("a")),
            (json!("logs"), json!("a")),
            (json!("logs"), Value::Null),
        ]
    );
}

async fn names_row_with_unknown_status(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    let table = "cloudflare_images";
    fixture.write_unchecked(table, "status", "lost").await;
    let id = fixture.database.image("a").await["id"].clone();

    let recorded = store.inbox.record(&[Arc::new(uploaded("a", 10))]).await;

    let error = recorded.expect_err("the status is unknown").to_string();
    let id = id.as_str().expect("text");
    let expected = format!("cloudflare_images.status of row {id} ");
    assert!(error.starts_with(&expected), "{error}");
}

#[tokio::test]
async fn notifies_last_change_of_image_on_postgres() {
    let fixture = Fixture::new(Backend::Postgres).await;
    let channel = "changes";
    let subscriptions = Subscriptions {
        endpoints: Vec::new(),
        channel: Some(channel.to_owned()),
    };
    let store = fixture
        .open_with(UnknownImages::Create, subscriptions)
        .await;
    let connecting = PgListener::connect(&fixture.database.url).await;
    let mut listener = connecting.expect("the listener connects");
    listener
        .listen(channel)
        .await
        .expect("the listener subscribes");

    record(&store, [uploaded("a", 10), failed("a", 11)]).await;
    record(&store, [uploaded("b", 12)]).await;

    for (id, status) in [("a", "failed"), ("b", "uploaded")] {
        let notification = listener.recv().await.expect("a notification");
        let payload: Value = serde_json::from_str(notification.payload()).expect("JSON");
        assert!(contains(&payload, "cloudflare_id", &json!(id)), "{payload}");
        assert!(contains(&payload, "status", &json!(status)), "{payload}");
    }
    let filter = DeliveryFilter::default();
    let deliveries = store.delivery_catalog.newest_deliveries(&filter, 10).await;
    let deliveries = deliveries.expect("the query succeeds");
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        assert_eq!(delivery.endpoint, "notify");
        assert_eq!(delivery.status, DeliveryStatus::Delivered);
    }
    fixture.close().await;
}

fn detailed(notification: Notification) -> Notification {
    let Content::Report(mut report) = notification.content else {
        panic!("the notification is a report");
    };
    report.details = ReportedDetails {
        filename: Some("cat.jpg".to_owned()),
        creator: Some("user-1".to_owned()),
        require_signed_urls: Some(true),
        variants: Some(Json::from_canonical(
            r#"["https://example.com/a"]"#.to_owned(),
        )),
        cloudflare_metadata: Some(Json::from_canonical(r#"{"key":"value"}"#.to_owned())),
    };
    Notification {
        content: Content::Report(report),
        ..notification
    }
}

fn subscriptions(subscription: Subscription) -> Subscriptions {
    Subscriptions {
        endpoints: vec![subscription],
        channel: None,
    }
}

fn request_info() -> StoredRequestInfo {
    StoredRequestInfo {
        request_id: "request-1".to_owned(),
        client_address: "192.0.2.1".to_owned(),
        scheme: "hmac".to_owned(),
    }
}

async fn only_rejection(store: &Store) -> Rejection {
    rejection(store, 1).await
}

async fn rejection(store: &Store, id: i64) -> Rejection {
    let found = store.rejection_catalog.find_rejection(id).await;
    found.expect("the query succeeds").expect("a rejection")
}

/// Returns whether JSON has a field with this name and value, at any depth.
fn contains(json: &Value, name: &str, value: &Value) -> bool {
    match json {
        Value::Object(fields) => {
            fields.get(name) == Some(value)
                || fields.values().any(|field| contains(field, name, value))
        }
        Value::Array(items) => items.iter().any(|item| contains(item, name, value)),
        _ => false,
    }
}
