//! Delivery of events to endpoints.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber, SubscriberResponse};
use crate::support::wait;

pub(crate) const IMAGES: &str = "cloudflare_images.CloudflareImage";
pub(crate) const LOGS: &str = "cloudflare_images.ImageUploadLog";

/// Starts a service with one endpoint for images and these additional endpoint settings.
pub(crate) async fn start(database: Database, subscriber: &Subscriber, settings: Value) -> App {
    let mut endpoint = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
        "retry": {"max_retries": 2, "delay_secs": 60},
    });
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    start_with_endpoints(database, &json!([endpoint])).await
}

pub(crate) async fn start_with_endpoints(database: Database, endpoints: &Value) -> App {
    App::start_with(
        database,
        &[("APP__RELAY__ENDPOINTS", &endpoints.to_string())],
    )
    .await
}

/// Returns a notification that the image was uploaded.
pub(crate) fn uploaded(id: &str) -> String {
    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z", "filename": "cat.jpg"}).to_string()
}

/// Registers an image and delivers the notification of its upload.
pub(crate) async fn upload(app: &App, id: &str) {
    app.database.register(id).await;
    assert_eq!(
        app.post_webhook(uploaded(id)).await.outcome(),
        (200, "applied")
    );
}

/// Returns the statuses of all deliveries, in order.
pub(crate) async fn statuses(database: &Database) -> Vec<String> {
    database
        .texts("SELECT status FROM relay_deliveries ORDER BY id")
        .await
}

/// Returns the image and the error of each delivery, sorted by image.
pub(crate) async fn errors_by_image(database: &Database) -> Vec<String> {
    database
        .texts(
            "SELECT relay_events.image || ': ' || relay_deliveries.error FROM relay_deliveries \
             JOIN relay_events ON relay_events.id = relay_deliveries.event_id ORDER BY relay_events.image",
        )
        .await
}

pub(crate) async fn wait_until_none_due(database: &Database) {
    wait::until_async("no delivery is due", async || {
        let due = "SELECT count(*) FROM relay_deliveries WHERE due_at IS NOT NULL";
        database.count(due).await == 0
    })
    .await;
}

pub(crate) async fn wait_for_statuses(database: &Database, expected: &[&str]) {
    wait::until_async("the deliveries have the expected statuses", async || {
        statuses(database).await == expected
    })
    .await;
}

on_both_databases!(
    stores_each_delivery_and_attempt,
    publishes_nothing_without_change,
    writes_nothing_without_endpoint,
    delivers_only_subscribed_events,
    endpoints_share_event_and_id,
    hanging_endpoint_delays_no_other,
    respects_endpoint_rate_limit,
    delivers_in_order_if_configured,
);

async fn stores_each_delivery_and_attempt(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["delivered"]).await;
    let message = subscriber.received().remove(0);
    let delivery = app.database.deliveries().await.remove(0);
    for (column, value) in [
        ("event_id", json!(message.event_id())),
        ("endpoint", json!("app")),
        ("status_code", json!(200)),
        ("error", json!("")),
        ("attempts", json!(1)),
        ("due_at", Value::Null),
        ("completed_at", json!("2024-01-01T12:00:00.000000Z")),
    ] {
        assert_eq!(delivery[column], value, "{column}");
    }
    let attempt = app.database.attempts().await.remove(0);
    assert_eq!(
        (
            &attempt["delivery_id"],
            &attempt["number"],
            &attempt["status_code"]
        ),
        (&delivery["id"], &json!(1), &json!(200))
    );
    let payload = app.database.texts("SELECT payload FROM relay_events").await;
    assert_eq!(
        payload,
        [String::from_utf8(message.body.to_vec()).expect("text")],
        "the stored payload is the bytes that were signed and sent"
    );
}

async fn publishes_nothing_without_change(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;

    let duplicate = app.post_webhook(uploaded("image")).await;
    let stale = app
        .post_webhook(
            json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string(),
        )
        .await;

    assert_eq!(
        (duplicate.outcome(), stale.outcome()),
        ((200, "duplicate"), (200, "stale"))
    );
    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        1
    );
}

async fn writes_nothing_without_endpoint(database: Database) {
    let app = App::start(database).await;

    upload(&app, "image").await;

    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        0
    );
}

async fn delivers_only_subscribed_events(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let app = start_with_endpoints(database, &json!([
            {"name": "new", "url": first.url(), "secret": RELAY_SECRET, "events": ["created"], "exclude_models": [LOGS]},
            {"name": "changed", "url": second.url(), "secret": RELAY_SECRET, "events": ["updated", "deleted"]},
        ])).await;

    upload(&app, "image").await;

    second.wait_for(1).await;
    assert_eq!(
        app.database
            .texts("SELECT endpoint FROM relay_deliveries")
            .await,
        ["changed"]
    );
}

async fn endpoints_share_event_and_id(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]
        })
    };
    let app = start_with_endpoints(
        database,
        &json!([endpoint("first", &first), endpoint("second", &second)]),
    )
    .await;

    upload(&app, "image").await;

    let (first, second) = (
        first.wait_for(1).await.remove(0),
        second.wait_for(1).await.remove(0),
    );
    assert_eq!(
        (first.event_id(), &first.body),
        (second.event_id(), &second.body)
    );
}

async fn hanging_endpoint_delays_no_other(database: Database) {
    let (hanging, good) = (Subscriber::start().await, Subscriber::start().await);
    hanging.respond_with(SubscriberResponse::NoResponse);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "max_in_flight": 1
        })
    };
    let app = start_with_endpoints(
        database,
        &json!([endpoint("hanging", &hanging), endpoint("good", &good)]),
    )
    .await;

    for id in ["1", "2", "3", "4", "5"] {
        upload(&app, id).await;
    }

    good.wait_for(5).await;
    assert_eq!(
        hanging.received().len(),
        1,
        "max_in_flight allows one attempt"
    );
}

async fn respects_endpoint_rate_limit(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"rate_limit_per_second": 1})).await;
    let started = Instant::now();
    for id in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        upload(&app, id).await;
    }
    subscriber.wait_for(3).await;

    // The limit allows the first attempt at once and one more per elapsed second, on a machine of
    // any speed.
    let attempts = subscriber.received().len() as u64;
    let allowed = 1 + started.elapsed().as_secs();
    assert!(
        attempts <= allowed,
        "{attempts} attempts, {allowed} allowed"
    );
    assert_eq!(
        app.database
            .attempts()
            .await
            .iter()
            .filter(|attempt| attempt["error"] != "")
            .count(),
        0,
        "waiting is not a failed attempt"
    );
}

async fn delivers_in_order_if_configured(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_first_with([SubscriberResponse::Status(500)]);
    let app = start(database, &subscriber, json!({"ordered": true})).await;
    app.database.register("image").await;
    let draft =
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string();

    assert_eq!(app.post_webhook(draft).await.outcome(), (200, "applied"));
    subscriber.wait_for(1).await;
    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "applied")
    );
    upload(&app, "another").await;
    subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["retrying", "pending", "delivered"]).await;
    app.clock.advance(Duration::from_secs(75));

    let received = subscriber.wait_for(4).await;
    let delivered: Vec<(String, String)> = received
        .iter()
        .map(|one| {
            let object = &one.json()["object"];
            (
                object["cloudflare_id"].to_string(),
                object["status"].to_string(),
            )
        })
        .collect();
    let delivered: Vec<(&str, &str)> = delivered
        .iter()
        .map(|(id, status)| (id.trim_matches('"'), status.trim_matches('"')))
        .collect();
    assert_eq!(
        delivered,
        [
            ("image", "draft"),
            ("another", "uploaded"),
            ("image", "draft"),
            ("image", "uploaded")
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_each_event_once() {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "events": ["updated"]}]).to_string();
    let variables = [("APP__RELAY__ENDPOINTS", endpoints.as_str())];
    let database = Database::postgres().await;
    let second = database.for_replica();
    let (first, second) = (
        App::start_with(database, &variables).await,
        App::start_with(second, &variables).await,
    );
    let ids: Vec<String> = (0..60).map(|number| format!("image-{number}")).collect();
    for id in &ids {
        first.database.register(id).await;
    }

    for (number, id) in ids.iter().enumerate() {
        let app = if number % 2 == 0 { &first } else { &second };
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
    }

    subscriber.wait_for(ids.len()).await;
    wait::until_async("all deliveries are done", async || {
        first
            .database
            .count("SELECT count(*) FROM relay_deliveries WHERE status <> 'delivered'")
            .await
            == 0
    })
    .await;
    let mut event_ids: Vec<String> = subscriber
        .received()
        .iter()
        .map(Received::event_id)
        .collect();
    assert_eq!(event_ids.len(), ids.len());
    event_ids.sort();
    event_ids.dedup();
    assert_eq!(event_ids.len(), ids.len(), "each event is delivered once");
}
