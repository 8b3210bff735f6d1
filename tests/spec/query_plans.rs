//! Query plans: the cost of a webhook does not grow with the tables.

use serde_json::json;

use crate::support::app::App;
use crate::support::database::Database;
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
