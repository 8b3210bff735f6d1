//! When an app cannot be told, somebody else is told that.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{Answer, RELAY_SECRET, Received, Subscriber};
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
    assert_eq!(app.deliver(body).await.outcome(), (200, "applied"));
}

/// The messages, without what is new in each.
fn told(received: &[Received]) -> Vec<Value> {
    let told = received.iter().map(|one| {
        let mut message = one.json();
        assert_eq!(message["id"], one.event_id());
        assert_eq!(message["timestamp"], "2024-01-01T12:00:00.000000Z");
        let fields = message.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "id" && name != "timestamp");
        message
    });
    told.collect()
}

on_both_databases!(
    what_is_given_up_is_told_with_the_message_as_it_was_sent,
    an_endpoint_that_fails_and_one_that_has_recovered_are_told_once,
    nobody_is_told_that_who_is_told_fails,
);

async fn what_is_given_up_is_told_with_the_message_as_it_was_sent(database: Database) {
    let (subscriber, somebody) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.answer(Answer::Status(500));
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__ON_FAILURE", "callback"),
            ("APP__RELAY__FAILURE_URL", &somebody.url()),
            ("APP__RELAY__FAILURE_SECRET", RELAY_SECRET),
        ],
    )
    .await;

    upload(&app, "image").await;

    let received = somebody.wait_for(1).await;
    let sent = subscriber.received().remove(0).json();
    assert!(sent["object"].get("filename").is_none());
    assert_eq!(
        told(&received),
        [json!({
            "event": "delivery_failed", "endpoint": "app", "error": "answered 500 Internal Server Error",
            "status_code": 500, "attempts": 1, "payload": sent,
        })]
    );
    wait::until_async("both are settled", async || {
        app.database
            .texts("SELECT status FROM relay_deliveries ORDER BY id")
            .await
            == ["failed", "delivered"]
    })
    .await;
}

async fn an_endpoint_that_fails_and_one_that_has_recovered_are_told_once(database: Database) {
    let (subscriber, somebody) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.answer_first(vec![Answer::Status(503); 4]);
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__MONITORING__ALERT_URL", &somebody.url()),
            ("APP__RELAY__MONITORING__ALERT_SECRET", RELAY_SECRET),
            ("APP__RELAY__MONITORING__ALERT_ON_CONSECUTIVE_FAILURES", "3"),
        ],
    )
    .await;

    for id in ["1", "2", "3", "4", "5", "6"] {
        upload(&app, id).await;
    }

    subscriber.wait_for(6).await;
    let mut received = somebody.wait_for(2).await;
    // They may come in any order; their ids say in which they belong.
    received.sort_by_key(Received::event_id);
    assert_eq!(
        told(&received),
        [
            json!({"event": "endpoint_failing", "endpoint": "app", "consecutive_failures": 3, "error": "answered 503 Service Unavailable"}),
            json!({"event": "endpoint_recovered", "endpoint": "app", "consecutive_failures": 4, "error": ""}),
        ]
    );
}

async fn nobody_is_told_that_who_is_told_fails(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let nobody = "http://127.0.0.1:1/";
    let app = start(
        database,
        &subscriber,
        &[
            ("APP__RELAY__ON_FAILURE", "callback"),
            ("APP__RELAY__FAILURE_URL", nobody),
            ("APP__RELAY__MONITORING__ALERT_URL", nobody),
            ("APP__RELAY__MONITORING__ALERT_ON_CONSECUTIVE_FAILURES", "1"),
        ],
    )
    .await;

    upload(&app, "image").await;

    wait::until_async("both are tried", async || {
        app.database
            .count("SELECT count(*) FROM relay_deliveries WHERE status = 'retrying'")
            .await
            == 2
    })
    .await;
    // What follows from a try is there before the next one begins.
    app.clock.advance(Duration::from_secs(75));
    wait::until_async("both are tried once more", async || {
        app.database.attempts().await.len() == 5
    })
    .await;
    let events = app
        .database
        .texts("SELECT event FROM relay_events ORDER BY event")
        .await;
    assert_eq!(events, ["delivery_failed", "endpoint_failing", "updated"]);
}
