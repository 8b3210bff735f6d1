//! Replicas whose clocks differ: leases and due times go by the database's clock.

use std::time::Duration;

use serde_json::{Value, json};

use crate::relay_delivery::{IMAGES, statuses, upload, wait_for_statuses};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};

const HOUR: Duration = Duration::from_hours(1);

/// Starts a replica whose clock is ahead.
async fn start(database: Database, subscriber: &Subscriber, ahead: Duration) -> App {
    let endpoints: Value = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
        "retry": {"delay_secs": 60},
    }]);
    let variables = [("APP__RELAY__ENDPOINTS", &*endpoints.to_string())];
    App::start_ahead(database, &variables, ahead).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_ahead_steals_no_lease() {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::NoResponse);
    let database = Database::postgres().await;
    let replica = database.for_replica();
    let app = start(database, &subscriber, Duration::ZERO).await;
    upload(&app, "image").await;
    subscriber.wait_for(1).await;

    let ahead = start(replica, &subscriber, HOUR).await;
    ahead.wait_for_claim().await;

    assert_eq!(statuses(&app.database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_ahead_delays_no_delivery_or_retry() {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let app = start(Database::postgres().await, &subscriber, HOUR).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["retrying"]).await;
    let due_in_time = "SELECT count(*) FROM relay_deliveries
        WHERE due_at BETWEEN now() AND now() + interval '75 seconds'";
    assert_eq!(app.database.count(due_in_time).await, 1);
}
