//! Failed attempts: retries, pauses and the final failure.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::relay_delivery::{
    IMAGES, start, start_with_endpoints, statuses, upload, wait_for_statuses,
};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};
use crate::support::wait;

on_both_databases!(
    retries_with_same_id,
    fails_after_last_attempt_until_replay,
    pauses_endpoint_after_410,
    probes_endpoint_after_an_hour,
    successful_probe_resumes_endpoint,
    refused_probe_leaves_endpoint_paused,
    honors_retry_after,
    fails_on_redirect,
    fails_on_incomplete_response,
    reads_only_start_of_long_response,
);

async fn retries_with_same_id(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_first_with([
        SubscriberResponse::Status(500),
        SubscriberResponse::Status(503),
    ]);
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["retrying"]).await;

    app.clock.advance(Duration::from_secs(75));
    subscriber.wait_for(2).await;
    wait::until_async("the second attempt is stored", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    app.clock.advance(Duration::from_secs(150));

    let received = subscriber.wait_for(3).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert!(
        received
            .iter()
            .all(|one| one.event_id() == received[0].event_id() && one.body == received[0].body)
    );
    let attempts = app.database.attempts().await;
    let results: Vec<(&Value, &Value)> = attempts
        .iter()
        .map(|attempt| (&attempt["number"], &attempt["status_code"]))
        .collect();
    assert_eq!(
        results,
        [
            (&json!(1), &json!(500)),
            (&json!(2), &json!(503)),
            (&json!(3), &json!(200))
        ]
    );
    assert_eq!(attempts[0]["error"], "answered 500 Internal Server Error");
}

async fn fails_after_last_attempt_until_replay(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["failed"]).await;

    subscriber.respond_with(SubscriberResponse::Status(204));
    // The same change as by `deliveries replay`, but due on the service's clock.
    app.database
        .execute(
            "UPDATE relay_deliveries SET status = 'pending', \
             due_at = created_at, completed_at = NULL",
            &[],
        )
        .await;

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn pauses_endpoint_after_410(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(410));
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "first").await;
    wait::until_async("the endpoint is paused", async || {
        app.database
            .count("SELECT count(*) FROM relay_endpoints WHERE paused_at IS NOT NULL")
            .await
            == 1
    })
    .await;
    wait_for_statuses(&app.database, &["retrying"]).await;

    upload(&app, "second").await;
    app.clock.advance(Duration::from_mins(59));
    app.wait_for_claim().await;
    assert_eq!(statuses(&app.database).await, ["retrying", "pending"]);
    assert_eq!(
        subscriber.received().len(),
        1,
        "a paused endpoint receives nothing"
    );
    subscriber.respond_with(SubscriberResponse::Status(200));
    app.database
        .execute("UPDATE relay_endpoints SET paused_at = NULL", &[])
        .await;

    subscriber.wait_for(3).await;
    wait_for_statuses(&app.database, &["delivered", "delivered"]).await;
}

/// Starts a service whose endpoint has answered 410 to the first of two deliveries.
async fn start_gone(database: Database, subscriber: &Subscriber) -> App {
    start_gone_since(database, subscriber, Duration::ZERO).await
}

/// Starts a service whose endpoint answered 410 this long before the start of the tests' clock.
async fn start_gone_since(database: Database, subscriber: &Subscriber, ago: Duration) -> App {
    subscriber.respond_with(SubscriberResponse::Status(410));
    let app = start(database, subscriber, json!({})).await;
    app.clock.set_back(ago);
    upload(&app, "first").await;
    wait_for_statuses(&app.database, &["retrying"]).await;
    upload(&app, "second").await;
    app
}

async fn probes_endpoint_after_an_hour(database: Database) {
    let subscriber = Subscriber::start().await;
    let almost_an_hour = Duration::from_hours(1) - Duration::from_secs(1);
    let app = start_gone_since(database, &subscriber, almost_an_hour).await;
    let (_, database) = app.stop().await;

    // With its first claim, the worker checks whether a probe is due.
    let app = start(database, &subscriber, json!({})).await;
    app.wait_for_claim().await;
    let early_statuses = statuses(&app.database).await;
    let early_attempts = app.database.attempts().await.len();
    app.clock.advance(Duration::from_secs(1));

    wait::until_async("the probe is stored", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    assert_eq!(early_statuses, ["retrying", "pending"]);
    assert_eq!(early_attempts, 1);
}

async fn successful_probe_resumes_endpoint(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start_gone(database, &subscriber).await;
    subscriber.respond_with(SubscriberResponse::Status(200));

    app.clock.advance(Duration::from_hours(1));

    subscriber.wait_for(3).await;
    wait_for_statuses(&app.database, &["delivered", "delivered"]).await;
}

async fn refused_probe_leaves_endpoint_paused(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start_gone(database, &subscriber).await;

    app.clock.advance(Duration::from_hours(1));
    wait::until_async("the probe is stored", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    app.clock.advance(Duration::from_mins(59));
    app.wait_for_claim().await;

    assert_eq!(subscriber.received().len(), 2);
    let paused = "SELECT count(*) FROM relay_endpoints WHERE paused_at IS NOT NULL";
    assert_eq!(app.database.count(paused).await, 1);
}

async fn honors_retry_after(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::WithHeader(
        429,
        "retry-after",
        "1000".to_owned(),
    ));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["retrying"]).await;
    let due_at = app.database.deliveries().await[0]["due_at"]
        .as_str()
        .expect("a time")
        .to_owned();
    let (earliest, latest) = ("2024-01-01T12:16:40.000000Z", "2024-01-01T12:20:50.000000Z");
    assert!(
        earliest <= due_at.as_str() && due_at.as_str() <= latest,
        "{due_at}"
    );
}

async fn fails_on_redirect(database: Database) {
    let (subscriber, elsewhere) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.respond_with(SubscriberResponse::WithHeader(
        307,
        "location",
        elsewhere.url(),
    ));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["failed"]).await;
    assert_eq!(elsewhere.received().len(), 0);
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "answered 307 Temporary Redirect, and redirects are not followed"
    );
}

async fn fails_on_incomplete_response(database: Database) {
    let (endless, broken, silent) = (
        Subscriber::start().await,
        Subscriber::start().await,
        Subscriber::start().await,
    );
    endless.respond_with(SubscriberResponse::EndlessBody);
    broken.respond_with(SubscriberResponse::TruncatedBody);
    silent.respond_with(SubscriberResponse::NoResponse);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "timeout_secs": 1, "retry": {"max_retries": 0},
        })
    };
    let refusing = json!({"name": "4", "url": "http://127.0.0.1:1/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let unknown = json!({"name": "5", "url": "http://no-such-host.invalid/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let app = start_with_endpoints(
        database,
        &json!([
            endpoint("1", &endless),
            endpoint("2", &broken),
            endpoint("3", &silent),
            refusing,
            unknown
        ]),
    )
    .await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["failed"; 5]).await;
    let errors = app
        .database
        .texts("SELECT error FROM relay_deliveries ORDER BY endpoint")
        .await;
    assert_eq!(errors[0], "no complete response within 1 s");
    assert!(errors[1].contains("incomplete response"), "{}", errors[1]);
    assert_eq!(errors[2], errors[0]);
    assert!(errors[3].contains("refused"), "{}", errors[3]);
    assert!(errors[4].contains("dns"), "{}", errors[4]);
}

async fn reads_only_start_of_long_response(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::LongBody(10_000_000));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["delivered"]).await;
}
