//! Query plans: the cost of a webhook and of a claim does not grow with the tables.

use serde_json::json;

use crate::on_both_databases;
use crate::relay_delivery::{IMAGES, upload};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::wait;

/// A notification without a time. The service searches the audit log for it.
fn undated(id: &str) -> String {
    json!({"id": id, "filename": "cat.jpg"}).to_string()
}

fn dated(id: &str) -> String {
    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string()
}

#[tokio::test]
async fn postgres_never_scans_whole_tables() {
    // The migration may scan tables. Its statistics appear when its connection ends.
    let app = App::start(Database::postgres().await).await;
    let (_, database) = app.stop().await;
    wait::until_async("no other connection is open", async || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.count(others).await == 0
    })
    .await;
    database
        .execute("SELECT pg_stat_reset()::text IS NULL", &[])
        .await;
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;

    // The tables are empty, so a sequential scan is the cheapest plan.
    for _ in 0..10 {
        assert_eq!(app.post_webhook(dated("first")).await.status, 200);
        assert_eq!(app.post_webhook(undated("first")).await.status, 200);
    }
    // The statistics do not yet include these rows when the next webhooks arrive.
    app.database
        .execute_script(
            "INSERT INTO cloudflare_images (cloudflare_id)
                 SELECT 'image-' || n FROM generate_series(1, 5000) AS n;
             INSERT INTO cloudflare_image_logs (event_type)
                 SELECT 'made_up' FROM generate_series(1, 5000)",
        )
        .await;
    // The statistics do not include these rows either. The sweep of parked notifications reads them.
    // The rejected body adds one more row.
    app.database
        .execute_script(
            "INSERT INTO webhook_rejections (received_at, status, reason)
                 SELECT now(), 400, 'made-up' FROM generate_series(1, 5000)",
        )
        .await;
    assert_eq!(app.post_webhook("{").await.status, 400);
    for number in 1..=10 {
        let id = format!("image-{number}");
        assert_eq!(app.post_webhook(dated(&id)).await.status, 200);
        assert_eq!(app.post_webhook(undated(&id)).await.status, 200);
    }

    app.wait_for_sweep().await;
    let (_, database) = app.stop().await;
    wait::until_async("the statistics include every webhook", async || {
        let updates =
            "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'cloudflare_images'";
        database.count(updates).await >= 22
    })
    .await;
    let scans = "SELECT relname || ': ' || seq_scan FROM pg_stat_user_tables \
        WHERE relname IN ('cloudflare_images', 'cloudflare_image_logs', 'webhook_rejections') ORDER BY 1";
    assert_eq!(
        database.texts(scans).await,
        [
            "cloudflare_image_logs: 0",
            "cloudflare_images: 0",
            "webhook_rejections: 0"
        ]
    );
}

/// The number of images whose first delivery waits for a retry and blocks the second.
const BLOCKED_IMAGES: i64 = 5000;

/// The limit of rows that claims may read while nothing changes but one image. It is far less than the blocked deliveries.
const MAX_ROWS_OF_CLAIMS: i64 = 500;

on_both_databases!(claim_skips_blocked_deliveries);

async fn claim_skips_blocked_deliveries(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start_ordered(database, &subscriber).await;
    let (_, database) = app.stop().await;
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {BLOCKED_IMAGES})"
    );
    for (number, status, due_at) in [
        (1, "retrying", "2024-01-02T12:00:00.000000Z"),
        (2, "pending", "2024-01-01T11:00:00.000000Z"),
    ] {
        database
            .execute_script(&format!(
                "INSERT INTO relay_events (id, event, model, image, payload, created_at)
                     {numbers} SELECT 'evt_{number}_' || n, 'updated', '{IMAGES}', 'blocked-' || n, '{{}}', '2024-01-01T11:00:00.000000Z' FROM numbers;
                 INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, created_at)
                     {numbers} SELECT 'evt_{number}_' || n, 'app', 'blocked-' || n, '{status}', '{due_at}', '2024-01-01T11:00:00.000000Z' FROM numbers;"
            ))
            .await;
    }

    let app = start_ordered(database, &subscriber).await;
    wait::until_async("no blocked delivery is due", async || {
        let due = "SELECT count(*) FROM relay_deliveries WHERE status = 'pending' AND due_at < '2024-01-01T12:30:00.000000Z'";
        app.database.count(due).await == 0
    })
    .await;
    let (_, database) = app.stop().await;
    let read_before = rows_read(&database).await;
    let app = start_ordered(database, &subscriber).await;
    upload(&app, "image").await;
    subscriber.wait_for(1).await;
    app.wait_for_claim().await;
    let (_, database) = app.stop().await;

    // The start counts the waiting deliveries once, for the metric: two of each image.
    let counted = 2 * BLOCKED_IMAGES;
    let read = rows_read(&database).await - read_before;
    assert!(read < counted + MAX_ROWS_OF_CLAIMS, "{read} rows were read");
}

/// Starts a service with an ordered endpoint, and without the retention, which reads all deliveries.
async fn start_ordered(database: Database, subscriber: &Subscriber) -> App {
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "ordered": true,
    }]);
    let variables = [
        ("APP__RELAY__ENDPOINTS", &*endpoints.to_string()),
        ("APP__RETENTION__DELIVERIES_DAYS", "0"),
    ];
    App::start_with(database, &variables).await
}

/// Returns the number of deliveries that were read. On SQLite, which does not count them, 0.
async fn rows_read(database: &Database) -> i64 {
    if !database.is_postgres() {
        return 0;
    }
    wait::until_async("the statistics are complete", async || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.count(others).await == 0
    })
    .await;
    let read = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables WHERE relname = 'relay_deliveries'";
    database.count(read).await
}
