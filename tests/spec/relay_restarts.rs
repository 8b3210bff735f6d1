//! Deliveries across shutdowns, kills and restarts.

use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{IMAGES, start, statuses, upload, uploaded, wait_for_statuses};
use crate::support::app::{App, CLAIMS_METRIC, client, response_to, wait_for_pass};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};

on_both_databases!(
    redelivers_after_lease_expires,
    kill_during_attempt_causes_redelivery,
    gives_up_delivery_that_kills_service,
    shutdown_finishes_attempts_and_releases_leases,
    shutdown_gives_up_hanging_attempts,
    delivers_after_configured_pause_ends,
);

async fn redelivers_after_lease_expires(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    // The state after a kill between the response and the settlement.
    let lease_expires_at = if app.database.is_postgres() {
        "2024-01-01 12:01:30+00"
    } else {
        "2024-01-01T12:01:30.000000Z"
    };
    let sql = format!(
        "UPDATE relay_deliveries SET status = 'leased', lease = 'of the dead', due_at = '{lease_expires_at}', completed_at = NULL"
    );
    app.database.execute(&sql, &[]).await;

    app.wait_for_claim().await;
    assert_eq!(statuses(&app.database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "the lease has not expired");
    app.clock.advance(Duration::from_secs(91));

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn kill_during_attempt_causes_redelivery(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::NoResponse);
    let folder = TempDir::new().expect("a folder");
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]}]).to_string();
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__RELAY__ENDPOINTS", &endpoints),
    ];
    let mut service = Service::start(folder.path(), &variables);
    database.register("image").await;
    let request = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(uploaded("image"));
    assert_eq!(response_to(request).await.outcome(), (200, "applied"));
    subscriber.wait_for(1).await;

    service.signal("-KILL");
    service.wait();
    subscriber.respond_with(SubscriberResponse::Status(200));
    let restarted = Service::start(folder.path(), &variables);
    wait_for_pass(&restarted.ops_url("/metrics"), CLAIMS_METRIC).await;
    assert_eq!(statuses(&database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "the lease has not expired");
    expire_leases(&database).await;

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
    assert_eq!(received[0].body, received[1].body);
}

/// The service is killed whenever it handles the poison. The subscriber then stalls, so other deliveries are in flight.
async fn gives_up_delivery_that_kills_service(database: Database) {
    let subscriber = Subscriber::start().await;
    let folder = TempDir::new().expect("a folder");
    let endpoint = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "max_in_flight": 4,
        "retry": {"max_retries": 2},
    });
    let paused = endpoints_of(&endpoint, &json!({"paused": true}));
    let active = endpoints_of(&endpoint, &json!({}));
    let variables = |endpoints| {
        [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
            ("APP__RELAY__ENDPOINTS", endpoints),
        ]
    };
    let mut service = Service::start(folder.path(), &variables(paused.as_str()));
    let innocents = (1..=20).map(|number| format!("innocent-{number}"));
    for id in std::iter::once("poison".to_owned()).chain(innocents) {
        let request = client()
            .post(service.url())
            .header("cf-webhook-auth", SECRET)
            .body(uploaded(&id));
        assert_eq!(response_to(request).await.outcome(), (200, "applied"));
    }
    service.signal("-TERM");
    service.wait();

    for _ in 0..3 {
        subscriber.stall_on("poison");
        let mut service = Service::start(folder.path(), &variables(active.as_str()));
        subscriber.wait_until_stalled().await;
        service.signal("-KILL");
        service.wait();
        expire_leases(&database).await;
    }
    subscriber.stall_on("poison");
    let _service = Service::start(folder.path(), &variables(active.as_str()));

    let mut expected = vec!["delivered"; 21];
    expected[0] = "failed";
    wait_for_statuses(&database, &expected).await;
    assert!(!subscriber.is_stalled(), "the poison is sent three times");
    let poison = database.deliveries().await.remove(0);
    assert_eq!(poison["attempts"], 3);
    assert_eq!(
        poison["error"],
        "the lease expired before the result was stored"
    );
}

/// Returns one endpoint with additional settings, as the value of an environment variable.
fn endpoints_of(endpoint: &Value, settings: &Value) -> String {
    let mut endpoint = endpoint.clone();
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    json!([endpoint]).to_string()
}

/// Moves the end of every lease into the past.
async fn expire_leases(database: &Database) {
    let sql = "UPDATE relay_deliveries SET due_at = created_at WHERE status = 'leased'";
    database.execute(sql, &[]).await;
}

async fn shutdown_finishes_attempts_and_releases_leases(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::NoResponse);
    let app = start(
        database,
        &subscriber,
        json!({"max_in_flight": 1, "timeout_secs": 1}),
    )
    .await;
    upload(&app, "first").await;
    subscriber.wait_for(1).await;
    upload(&app, "second").await;

    let (exit_reason, database) = app.stop().await;

    assert_eq!(exit_reason, ExitReason::Clean);
    assert_eq!(statuses(&database).await, ["retrying", "pending"]);
    assert_eq!(subscriber.received().len(), 1);
}

async fn shutdown_gives_up_hanging_attempts(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::NoResponse);
    let endpoint = json!({"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]});
    let endpoints = endpoints_of(&endpoint, &json!({"timeout_secs": 300, "max_in_flight": 1}));
    let variables = [
        ("APP__RELAY__ENDPOINTS", &*endpoints),
        ("APP__SHUTDOWN__DEADLINE_SECS", "4"),
    ];
    let app = App::start_with(database, &variables).await;
    upload(&app, "first").await;
    subscriber.wait_for(1).await;
    upload(&app, "second").await;

    let (exit_reason, database) = app.stop().await;

    assert_eq!(exit_reason, ExitReason::Clean);
    assert_eq!(statuses(&database).await, ["pending", "pending"]);
    let attempts = database.attempts().await;
    assert!(attempts.is_empty(), "an orderly release is no attempt");
}

async fn delivers_after_configured_pause_ends(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"paused": true})).await;
    upload(&app, "image").await;
    let (_, database) = app.stop().await;
    assert_eq!(statuses(&database).await, ["pending"]);
    assert_eq!(
        database
            .texts("SELECT pause_reason FROM relay_endpoints")
            .await,
        ["paused by the configuration"]
    );

    let app = start(database, &subscriber, json!({})).await;

    subscriber.wait_for(1).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
}
