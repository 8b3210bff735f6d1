//! The circuit breaker of an endpoint.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::on_both_databases;
use crate::relay_delivery::{start, statuses, upload, wait_for_statuses};
use crate::support::database::Database;
use crate::support::subscriber::{Subscriber, SubscriberResponse};
use crate::support::wait;

on_both_databases!(
    opens_after_failures_then_delivers_all,
    opening_releases_leased_deliveries,
    filtered_events_need_no_further_cooldown,
);

async fn opens_after_failures_then_delivers_all(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let app = start(database, &subscriber, json!({"max_in_flight": 1})).await;
    let ids: Vec<String> = (0..30).map(|number| format!("image-{number}")).collect();
    let started = Instant::now();

    for id in &ids {
        upload(&app, id).await;
    }
    subscriber.wait_for(6).await;

    // The breaker allows five attempts at once, and one after each elapsed cooldown of 1, 2, 4, 8,
    // 16 and then 30 s.
    let attempts = subscriber.received().len();
    let cooldown_ends = [1, 3, 7, 15, 31, 61, 91, 121];
    let seconds = started.elapsed().as_secs();
    let cooldowns = cooldown_ends.iter().filter(|end| **end <= seconds).count();
    assert!(
        attempts <= 5 + cooldowns,
        "{attempts} attempts in {seconds} s"
    );
    assert!(attempts < 10, "{attempts} attempts");
    subscriber.respond_with(SubscriberResponse::Status(200));
    // A failure that is settled after the clock advances would be due too late.
    wait::until_async("the failed attempts are stored", async || {
        app.database.attempts().await.len() >= attempts
    })
    .await;
    app.clock.advance(Duration::from_secs(75));
    wait_for_statuses(&app.database, &vec!["delivered"; ids.len()]).await;
}

async fn opening_releases_leased_deliveries(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let paused = start(
        database,
        &subscriber,
        json!({"max_in_flight": 10, "paused": true}),
    )
    .await;
    for number in 0..20 {
        upload(&paused, &format!("image-{number}")).await;
    }
    let (_, database) = paused.stop().await;

    // All twenty are leased at once, and ten of them wait for a slot.
    let app = start(database, &subscriber, json!({"max_in_flight": 10})).await;

    wait::until_async("some deliveries are released", async || {
        let attempts = app
            .database
            .count("SELECT count(*) FROM relay_attempts")
            .await;
        attempts >= 5
            && statuses(&app.database)
                .await
                .contains(&"pending".to_owned())
    })
    .await;
    // A restarted service has no failure history, so its breaker is closed.
    let (_, database) = app.stop().await;
    subscriber.respond_with(SubscriberResponse::Status(200));
    let app = start(database, &subscriber, json!({})).await;
    app.clock.advance(Duration::from_secs(75));
    wait_for_statuses(&app.database, &["delivered"; 20]).await;
}

async fn filtered_events_need_no_further_cooldown(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.respond_with(SubscriberResponse::Status(500));
    let app = start(database, &subscriber, json!({
        "max_in_flight": 10, "when": ".object.filename != \"cat.jpg\"", "retry": {"max_retries": 0},
    })).await;
    for number in 0..5 {
        let id = format!("wanted-{number}");
        app.database.register(&id).await;
        let failed = json!({"id": id, "error": "too large", "timestamp": "2024-01-01T12:00:00Z"})
            .to_string();
        assert_eq!(app.post_webhook(failed).await.outcome(), (200, "applied"));
    }
    subscriber.wait_for(5).await;

    for number in 0..200 {
        upload(&app, &format!("unwanted-{number}")).await;
    }

    // One cooldown is enough for all of them.
    wait::until_async(
        "the events that `when` rejects are filtered out",
        async || {
            app.database
                .count("SELECT count(*) FROM relay_deliveries WHERE status = 'filtered'")
                .await
                == 200
        },
    )
    .await;
}
