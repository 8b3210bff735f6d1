//! Deliveries across shutdowns, kills and restarts.

use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{IMAGES, start, statuses, upload, uploaded, wait_for_statuses};
use crate::support::app::{CLAIMS_METRIC, client, response_to, wait_for_pass};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};

on_both_databases!(
    redelivers_after_lease_expires,
    kill_during_attempt_causes_redelivery,
    shutdown_finishes_attempts_and_releases_leases,
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
    // Expires the lease.
    database
        .execute("UPDATE relay_deliveries SET due_at = created_at", &[])
        .await;

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
    assert_eq!(received[0].body, received[1].body);
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
