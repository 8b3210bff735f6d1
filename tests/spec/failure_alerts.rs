//! Alerts about failed deliveries and failing endpoints.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber, SubscriberResponse};
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

async fn start(database: Database, subscriber: &Subscriber, settings: &[(&str, &str)]) -> App {
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "max_in_flight": 1,
        "retry": {"max_retries": 0}, "exclude_fields": {"*": ["filename"]},
    }]).to_string();
    let variables = [&[("APP__RELAY__ENDPOINTS", endpoints.as_str())], settings].concat();
    App::start_with(database, &variables).await
}

async fn upload(app: &App, id: &str) {
    app.database.register(id).await;
    let body =
        json!({"id": id, "uploaded": "2024-01-01T12:00:00Z", "filename": "cat.jpg"}).to_string();
    assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
}

/// Returns the payloads without ids and timestamps.
fn payloads(received: &[Received]) -> Vec<Value> {
    let payloads = received.iter().map(|one| {
        let mut message = one.json();
        assert_eq!(message["id"], one.event_id());
        assert_eq!(message["timestamp"], "2024-01-01T12:00:00.000000Z");
        let fields = message.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "id" && name != "timestamp");
        message
    });
    payloads.collect()
}

on_both_databases!(
    sends_failed_delivery_to_failure_url,
    alerts_once_on_failure_and_recovery,
    raises_no_alerts_about_alerts,
    alerts_when_410_pauses_and_probe_resumes,
);

async fn sends_failed_delivery_to_failure_url(database: Database) {
    let (subscriber, alert_receiver) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.respond_with(SubscriberResponse::Status(500));
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__ON_FAILURE", "callback"),
            ("APP__RELAY__FAILURE_URL", &alert_receiver.url()),
            ("APP__RELAY__FAILURE_SECRET", RELAY_SECRET),
        ],
    )
    .await;

    upload(&app, "image").await;

    let received = alert_receiver.wait_for(1).await;
    let sent = subscriber.received().remove(0).json();
    assert!(sent["object"].get("filename").is_none());
    assert_eq!(
        payloads(&received),
        [json!({
            "event": "delivery_failed", "endpoint": "app", "error": "answered 500 Internal Server Error",
            "status_code": 500, "attempts": 1, "payload": sent,
        })]
    );
    wait::until_async("both deliveries are done", async || {
        app.database
            .texts("SELECT status FROM relay_deliveries ORDER BY id")
            .await
            == ["failed", "delivered"]
    })
    .await;
}

async fn alerts_once_on_failure_and_recovery(database: Database) {
    let (subscriber, alert_receiver) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.respond_first_with(vec![SubscriberResponse::Status(503); 4]);
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__MONITORING__ALERT_URL", &alert_receiver.url()),
            ("APP__RELAY__MONITORING__ALERT_SECRET", RELAY_SECRET),
            ("APP__RELAY__MONITORING__ALERT_ON_CONSECUTIVE_FAILURES", "3"),
        ],
    )
    .await;

    for id in ["1", "2", "3", "4", "5", "6"] {
        upload(&app, id).await;
    }

    subscriber.wait_for(6).await;
    let mut received = alert_receiver.wait_for(2).await;
    // Alerts may arrive in any order. Their ids give the order in which they were created.
    received.sort_by_key(Received::event_id);
    assert_eq!(
        payloads(&received),
        [
            json!({"event": "endpoint_failing", "endpoint": "app", "consecutive_failures": 3, "error": "answered 503 Service Unavailable"}),
            json!({"event": "endpoint_recovered", "endpoint": "app", "consecutive_failures": 4, "error": ""}),
        ]
    );
}

async fn alerts_when_410_pauses_and_probe_resumes(database: Database) {
    let (subscriber, alert_receiver) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.respond_first_with([SubscriberResponse::Status(410)]);
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__MONITORING__ALERT_URL", &alert_receiver.url()),
            ("APP__RELAY__MONITORING__ALERT_SECRET", RELAY_SECRET),
        ],
    )
    .await;

    upload(&app, "1").await;
    let paused = alert_receiver.wait_for(1).await;
    assert_eq!(
        payloads(&paused),
        [
            json!({"event": "endpoint_paused", "endpoint": "app", "error": "the endpoint answered 410 Gone"})
        ]
    );
    app.clock.advance(Duration::from_hours(1));

    let resumed = alert_receiver.wait_for(2).await[1].json();
    assert_eq!(resumed["event"], "endpoint_resumed");
    assert_eq!(resumed["endpoint"], "app");
}

async fn raises_no_alerts_about_alerts(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let unreachable_url = "http://127.0.0.1:1/";
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__ON_FAILURE", "callback"),
            ("APP__RELAY__FAILURE_URL", unreachable_url),
            ("APP__RELAY__MONITORING__ALERT_URL", unreachable_url),
            ("APP__RELAY__MONITORING__ALERT_ON_CONSECUTIVE_FAILURES", "1"),
        ],
    )
    .await;

    upload(&app, "image").await;

    wait::until_async("both alerts were attempted", async || {
        app.database
            .count("SELECT count(*) FROM relay_deliveries WHERE status = 'retrying'")
            .await
            == 2
    })
    .await;
    // The events that an attempt causes are stored before the next attempt starts.
    app.clock.advance(Duration::from_secs(75));
    wait::until_async("both alerts were attempted again", async || {
        app.database.attempts().await.len() == 5
    })
    .await;
    let events = app
        .database
        .texts("SELECT event FROM relay_events ORDER BY event")
        .await;
    assert_eq!(events, ["delivery_failed", "endpoint_failing", "updated"]);
}
