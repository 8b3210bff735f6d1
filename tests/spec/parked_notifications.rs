//! Parked notifications: a notification for an unknown image gets 404, and is applied when the row
//! exists.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::program::{run, stdout};
use crate::support::signing::SECRET;
use crate::support::wait;

fn uploaded(id: &str) -> String {
    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string()
}

/// Posts the body and asserts that the response is 404.
async fn post_unknown_image(app: &App, body: &str) {
    assert_eq!(
        app.post_webhook(body.to_owned()).await.outcome(),
        (404, "unknown-image"),
        "{body}"
    );
}

async fn wait_until_applied(database: &Database, count: i64) {
    wait::until_async("the parked notifications are applied", async || {
        let applied = "SELECT count(*) FROM webhook_rejections WHERE state = 'applied'";
        database.count(applied).await == count
    })
    .await;
}

/// Returns a column of all rejections, in order.
async fn column(database: &Database, name: &str) -> Vec<Value> {
    let rejections = database.rejections().await;
    rejections.iter().map(|row| row[name].clone()).collect()
}

on_both_databases!(
    applies_after_app_inserts_row,
    applies_several_in_order_exactly_once,
    applies_many_notifications,
    images_add_applies_without_service,
    expires_after_ttl,
    skips_unauthenticated_after_secret_is_set,
    zero_ttl_disables_parking,
    applies_in_order_despite_many_others,
    many_failures_do_not_block_others,
    invalid_row_does_not_block_others,
);

async fn applies_after_app_inserts_row(database: Database) {
    let app = App::start(database).await;
    post_unknown_image(&app, &uploaded("image")).await;
    let parked = app.database.rejections().await;
    assert_eq!(
        (
            &parked[0]["state"],
            &parked[0]["cloudflare_id"],
            &parked[0]["reason"]
        ),
        (&json!("parked"), &json!("image"), &json!("unknown-image"))
    );

    app.clock.advance(Duration::from_secs(5));
    app.database.register("image").await;

    wait_until_applied(&app.database, 1).await;
    let image = app.database.image("image").await;
    assert_eq!(
        (&image["status"], &image["uploaded_at"]),
        (&json!("uploaded"), &json!("2024-01-01T12:00:00.000000Z"))
    );
    assert_eq!(
        image["updated_at"], "2024-01-01T12:00:05.000000Z",
        "a query for later changes finds the row"
    );
    let logs = app.database.logs().await;
    assert_eq!(logs.len(), 1);
    assert_eq!(
        (&logs[0]["event_type"], &logs[0]["image_id"]),
        (&json!("webhook_received"), &image["id"])
    );
    let applied = app.database.rejections().await;
    assert_eq!(
        (&applied[0]["outcome"], applied[0]["settled_at"].is_string()),
        (&json!("applied"), true)
    );
}

async fn applies_several_in_order_exactly_once(database: Database) {
    let app = App::start(database).await;
    let named = |name: &str| json!({"id": "image", "filename": name}).to_string();
    // They have no time of their own, so the service uses the times of their receipt.
    for name in ["first.jpg", "second.jpg", "first.jpg", "last.jpg"] {
        post_unknown_image(&app, &named(name)).await;
        app.clock.advance(Duration::from_secs(1));
    }
    post_unknown_image(&app, &uploaded("another")).await;

    app.database.register("image").await;

    wait_until_applied(&app.database, 4).await;
    assert_eq!(app.database.image("image").await["filename"], "last.jpg");
    assert_eq!(
        column(&app.database, "outcome").await,
        ["applied", "applied", "duplicate", "applied", ""]
    );
    assert_eq!(
        column(&app.database, "state").await[4],
        "parked",
        "the other image has no row"
    );
    assert_eq!(
        app.database.log_types().await,
        [
            "webhook_received",
            "webhook_received",
            "webhook_duplicate",
            "webhook_received"
        ]
    );
    // A redelivery of an applied notification is a duplicate.
    assert_eq!(
        app.post_webhook(named("last.jpg")).await.outcome(),
        (200, "duplicate")
    );
}

async fn applies_many_notifications(database: Database) {
    let app = App::start(database).await;
    for number in 0..250 {
        post_unknown_image(&app, &uploaded(&format!("image-{number}"))).await;
    }

    let rows: Vec<String> = (0..250)
        .map(|number| format!("('image-{number}')"))
        .collect();
    app.database
        .execute_script(&format!(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES {}",
            rows.join(", ")
        ))
        .await;

    wait_until_applied(&app.database, 250).await;
    assert_eq!(
        app.database
            .count("SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'")
            .await,
        250
    );
    assert_eq!(app.database.logs().await.len(), 250);
}

async fn images_add_applies_without_service(database: Database) {
    let app = App::start(database).await;
    post_unknown_image(&app, &uploaded("image")).await;
    let (_, database) = app.stop().await;
    let folder = TempDir::new().expect("a folder");
    // The command uses the real clock, and the service's clock is in 2024.
    let variables = [("DATABASE_URL", database.url.as_str())];
    let just_now = "UPDATE webhook_rejections SET parked_at = \
        (SELECT created_at FROM cloudflare_images WHERE cloudflare_id = $1)";
    database.register("now").await;
    database.execute(just_now, &["now"]).await;

    let added = run(folder.path(), &["images", "add", "image"], &variables);

    assert_eq!(
        stdout(&added),
        "registered image\nparked notifications applied: 1\n"
    );
    assert_eq!(database.image("image").await["status"], "uploaded");
}

async fn expires_after_ttl(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__PARKED_TTL_DAYS", "7")]).await;
    post_unknown_image(&app, &uploaded("old")).await;
    app.clock.advance(Duration::from_hours(7 * 24 + 1));
    post_unknown_image(&app, &uploaded("new")).await;

    for id in ["old", "new"] {
        app.database.register(id).await;
    }

    wait_until_applied(&app.database, 1).await;
    assert_eq!(app.database.image("new").await["status"], "uploaded");
    assert_eq!(app.database.image("old").await["status"], "pending");
    assert_eq!(
        column(&app.database, "state").await,
        ["stored", "applied"],
        "the expired notification is not applied"
    );
}

async fn skips_unauthenticated_after_secret_is_set(database: Database) {
    let without_secret = App::start_with(database, &[("CLOUDFLARE_WEBHOOK_SECRET", "")]).await;
    for id in ["before", "after"] {
        // Without a secret the header is not checked.
        let response = response_to(
            without_secret
                .request(uploaded(id))
                .header("cf-webhook-auth", "anything"),
        )
        .await;
        assert_eq!(response.outcome(), (404, "unknown-image"));
    }
    without_secret.database.register("before").await;
    wait_until_applied(&without_secret.database, 1).await;
    let (_, database) = without_secret.stop().await;

    let app = App::start(database).await;
    app.database.register("after").await;
    post_unknown_image(&app, &uploaded("authenticated")).await;
    app.database.register("authenticated").await;

    wait_until_applied(&app.database, 2).await;
    assert_eq!(
        app.database.image("authenticated").await["status"],
        "uploaded"
    );
    assert_eq!(
        app.database.image("after").await["status"],
        "pending",
        "the notification was not authenticated"
    );
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let printed = stdout(&run(
        folder.path(),
        &["rejections", "reprocess", "2"],
        &variables,
    ));
    assert_eq!(
        printed,
        "2: refused again: it is not authenticated, because no secret was configured when it was received\n"
    );
    assert_eq!(app.database.image("after").await["status"], "pending");
}

async fn zero_ttl_disables_parking(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__PARKED_TTL_DAYS", "0")]).await;
    post_unknown_image(&app, &uploaded("image")).await;

    app.database.register("image").await;

    wait::until_async("the notification is not parked", async || {
        column(&app.database, "state").await == ["stored"]
    })
    .await;
    assert_eq!(app.database.image("image").await["status"], "pending");
}

async fn applies_in_order_despite_many_others(database: Database) {
    let app = App::start(database).await;
    let broken = "broken";
    post_unknown_image(&app, &uploaded(broken)).await;
    for number in 0..150 {
        post_unknown_image(&app, &uploaded(&format!("image-{number}"))).await;
    }
    post_unknown_image(
        &app,
        &json!({"id": broken, "filename": "later.jpg"}).to_string(),
    )
    .await;
    let good: Vec<String> = (0..150)
        .map(|number| format!("('image-{number}', '{{}}')"))
        .collect();
    // The row is unreadable when the first notification is due, and is repaired before the later
    // one.
    app.database
        .execute_script(&format!(
            "INSERT INTO cloudflare_images (cloudflare_id, details_at) \
             VALUES ('{broken}', 'nonsense'), {}",
            good.join(", "),
        ))
        .await;

    wait_until_applied(&app.database, 150).await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET details_at = '{}' WHERE cloudflare_id = $1",
            &[broken],
        )
        .await;
    wait_until_applied(&app.database, 152).await;

    let logs = app.database.logs().await;
    let last: Vec<_> = logs[150..]
        .iter()
        .map(|log| log["data"]["payload"]["filename"].clone())
        .collect();
    assert_eq!(last, [Value::Null, json!("later.jpg")]);
}

async fn many_failures_do_not_block_others(database: Database) {
    let app = App::start(database).await;
    for number in 0..120 {
        post_unknown_image(&app, &uploaded(&format!("broken-{number}"))).await;
    }
    post_unknown_image(&app, &uploaded("good")).await;
    let rows: Vec<String> = (0..120)
        .map(|number| format!("('broken-{number}', 'nonsense')"))
        .collect();
    app.database
        .execute_script(&format!(
            "INSERT INTO cloudflare_images (cloudflare_id, details_at) VALUES {}; \
             INSERT INTO cloudflare_images (cloudflare_id) VALUES ('good')",
            rows.join(", "),
        ))
        .await;

    wait_until_applied(&app.database, 1).await;

    assert_eq!(app.database.image("good").await["status"], "uploaded");
}

async fn invalid_row_does_not_block_others(database: Database) {
    let app = App::start(database).await;
    for id in ["broken", "good"] {
        post_unknown_image(&app, &uploaded(id)).await;
    }
    app.database
        .execute_script(
            "
            INSERT INTO cloudflare_images (cloudflare_id, details_at) VALUES ('broken', 'nonsense');
            INSERT INTO cloudflare_images (cloudflare_id) VALUES ('good');
        ",
        )
        .await;

    wait_until_applied(&app.database, 1).await;
    assert_eq!(app.database.image("good").await["status"], "uploaded");
    app.database
        .execute(
            "UPDATE cloudflare_images SET details_at = '{}' WHERE cloudflare_id = $1",
            &["broken"],
        )
        .await;
    wait_until_applied(&app.database, 2).await;
    assert_eq!(
        app.database.image("broken").await["status"],
        "uploaded",
        "the notification was applied again after the repair"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_row_does_not_block_others() {
    let app = App::start_with(
        Database::postgres().await,
        &[("APP__DATABASE__TIMEOUT_SECS", "2")],
    )
    .await;
    for id in ["slow", "good"] {
        post_unknown_image(&app, &uploaded(id)).await;
    }

    app.database
        .execute_script(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
             CREATE TRIGGER dawdle BEFORE UPDATE ON cloudflare_images
                 FOR EACH ROW WHEN (OLD.cloudflare_id = 'slow') EXECUTE FUNCTION dawdle();
             INSERT INTO cloudflare_images (cloudflare_id) VALUES ('slow'), ('good');",
        )
        .await;

    wait_until_applied(&app.database, 1).await;
    assert_eq!(app.database.image("good").await["status"], "uploaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_apply_each_once() {
    let database = Database::postgres().await;
    let replica = App::start(database.for_replica()).await;
    let app = App::start(database).await;
    for number in 0..150 {
        post_unknown_image(&app, &uploaded(&format!("image-{number}"))).await;
    }

    app.database
        .execute_script(
            "INSERT INTO cloudflare_images (cloudflare_id) \
             SELECT 'image-' || n FROM generate_series(0, 149) AS n",
        )
        .await;

    wait_until_applied(&app.database, 150).await;
    // Another sweep of both replicas finds nothing to apply.
    tokio::join!(app.wait_for_sweep(), replica.wait_for_sweep());
    assert_eq!(app.database.logs().await.len(), 150);
    drop(replica);
}
