//! Retention: old rows are deleted, and recent rows stay.

use std::time::Duration;

use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stdout};
use crate::support::wait;

/// Enough rows for several transactions.
const OLD_ROWS: usize = 2500;

/// Returns a database with this many rows of the last century. Every tenth is followed by a row
/// that is recent on the tests' clock.
async fn database_with_old_rows(database: Database) -> Database {
    let (_, database) = App::start(database).await.stop().await;
    let rows = |columns: &str| {
        let rows: Vec<String> = (0..OLD_ROWS)
            .flat_map(|number| {
                let old = format!("('1999-12-31T00:00:00.000000Z', {columns})");
                let new = format!("('2023-12-31T00:00:00.000000Z', {columns})");
                [Some(old), (number % 10 == 0).then_some(new)]
            })
            .flatten()
            .collect();
        rows.join(", ")
    };
    let script = format!(
        "INSERT INTO cloudflare_image_logs (timestamp, event_type) VALUES {};
         INSERT INTO cloudflare_image_logs (timestamp, event_type) VALUES {};
         INSERT INTO webhook_rejections (received_at, status, reason) VALUES {}",
        // An entry of another program, inserted before ours.
        rows("'upload_url_created'"),
        rows("'webhook_received'"),
        rows("400, 'made-up'"),
    );
    database.execute_script(&script).await;
    database
}

/// Returns the number of webhook entries in the audit log, and of rejections. Checks that the entries
/// of other programs are unchanged.
async fn rows(database: &Database) -> (i64, i64) {
    let other_entries =
        "SELECT count(*) FROM cloudflare_image_logs WHERE event_type = 'upload_url_created'";
    assert_eq!(
        database.count(other_entries).await,
        ALL_ROWS,
        "entries of other programs are not deleted"
    );
    (
        database
            .count("SELECT count(*) FROM cloudflare_image_logs WHERE event_type <> 'upload_url_created'")
            .await,
        database
            .count("SELECT count(*) FROM webhook_rejections")
            .await,
    )
}

const NEW_ROWS: i64 = 250;
const ALL_ROWS: i64 = 2750;

on_both_databases!(
    deletes_rows_older_than_settings,
    zero_days_disables_pruning,
    parking_again_extends_retention,
    command_previews_and_deletes_old_rows,
    deletes_every_type_of_own_entry,
    records_webhooks_while_pruning,
    keeps_rows_from_before_adoption,
);

async fn deletes_rows_older_than_settings(database: Database) {
    let database = database_with_old_rows(database).await;

    let app = App::start(database).await;

    wait::until_async("all old rows are deleted", async || {
        rows(&app.database).await == (NEW_ROWS, NEW_ROWS)
    })
    .await;
}

async fn zero_days_disables_pruning(database: Database) {
    let database = database_with_old_rows(database).await;

    let app = App::start_with(database, &[("APP__RETENTION__LOGS_DAYS", "0")]).await;

    wait::until_async("all old rejections are deleted", async || {
        rows(&app.database).await.1 == NEW_ROWS
    })
    .await;
    let (_, database) = app.stop().await;
    assert_eq!(rows(&database).await, (ALL_ROWS, NEW_ROWS));
}

async fn parking_again_extends_retention(database: Database) {
    let app = App::start(database).await;
    let (long_ago, yesterday) = ("2023-06-01 00:00:00.000000Z", "2023-12-31 00:00:00.000000Z");
    for (id, parked_at) in [("again", yesterday), ("once", long_ago)] {
        let parked_at = if app.database.is_postgres() {
            parked_at.to_owned()
        } else {
            parked_at.replace(' ', "T")
        };
        let long_ago = if app.database.is_postgres() {
            long_ago.to_owned()
        } else {
            long_ago.replace(' ', "T")
        };
        app.database.execute_script(&format!("
                INSERT INTO webhook_rejections (received_at, status, reason, cloudflare_id, state, parked_at)
                VALUES ('{long_ago}', 404, 'unknown-image', '{id}', 'parked', '{parked_at}');
            ")).await;
    }
    let (_, database) = app.stop().await;

    let app = App::start(database).await;

    wait::until_async("the old rejection is deleted", async || {
        app.database.rejections().await.len() < 2
    })
    .await;
    assert_eq!(app.database.rejections().await[0]["cloudflare_id"], "again");
}

async fn command_previews_and_deletes_old_rows(database: Database) {
    let database = database_with_old_rows(database).await;
    let folder = TempDir::new().expect("a folder");
    // The command uses the real clock. It deletes the rows of 1999, and those of 2023 stay.
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("APP__RETENTION__LOGS_DAYS", "7000"),
        ("APP__RETENTION__REJECTIONS_DAYS", "0"),
    ];
    let prune = |arguments: &[&str]| {
        stdout(&run(
            folder.path(),
            &[&["retention", "prune"], arguments].concat(),
            &variables,
        ))
    };

    let preview = prune(&["--dry-run"]);
    assert_eq!(rows(&database).await, (ALL_ROWS, ALL_ROWS));
    let deleted = prune(&[]);

    assert_eq!(
        preview,
        "cloudflare_image_logs: 2500 rows would be deleted\n\
         webhook_rejections: 0 rows would be deleted\n\
         relay_deliveries: 0 rows would be deleted\n"
    );
    assert_eq!(
        deleted,
        "cloudflare_image_logs: 2500 rows were deleted\n\
         webhook_rejections: 0 rows were deleted\n\
         relay_deliveries: 0 rows were deleted\n"
    );
    assert_eq!(rows(&database).await, (NEW_ROWS, ALL_ROWS));
}

async fn deletes_every_type_of_own_entry(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    for (body, outcome) in [
        (
            r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#,
            "applied",
        ),
        (
            r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#,
            "duplicate",
        ),
        (
            r#"{"id":"image","error":"too big","timestamp":"2024-01-01T11:00:00Z"}"#,
            "stale",
        ),
        (r#"{"text":"test message"}"#, "test"),
        (
            r#"{"data":{},"alert_type":"billing_usage_alert"}"#,
            "ignored",
        ),
    ] {
        assert_eq!(app.post_webhook(body).await.outcome(), (200, outcome));
    }
    let (_, database) = app.stop().await;
    let imported = "INSERT INTO cloudflare_image_logs (timestamp, event_type) VALUES ('2024-01-01T12:00:00.000000Z', 'imported')";
    database.execute_script(imported).await;
    let folder = TempDir::new().expect("a folder");

    // The command uses the real clock, and the service's clock is in 2024.
    let deleted = stdout(&run(
        folder.path(),
        &["retention", "prune"],
        &[("DATABASE_URL", &database.url)],
    ));

    assert_eq!(
        deleted,
        "cloudflare_image_logs: 6 rows were deleted\n\
         webhook_rejections: 0 rows were deleted\n\
         relay_deliveries: 0 rows were deleted\n"
    );
    assert_eq!(
        database.image("image").await["status"],
        "uploaded",
        "images are not deleted"
    );
}

async fn records_webhooks_while_pruning(database: Database) {
    let database = database_with_old_rows(database).await;
    let app = App::start(database).await;
    app.database.register("image").await;

    for number in 0..20 {
        app.clock.advance(Duration::from_secs(1));
        let body = format!(r#"{{"id":"image","filename":"{number}.jpg"}}"#);
        assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
    }

    wait::until_async("all old rows are deleted", async || {
        rows(&app.database).await == (NEW_ROWS + 20, NEW_ROWS)
    })
    .await;
}

async fn keeps_rows_from_before_adoption(database: Database) {
    let database = database_with_old_rows(database).await;
    let folder = TempDir::new().expect("a folder");
    let prune = |setting: &str| {
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("APP__RETENTION__LOGS_DAYS", "7000"),
            ("APP__RETENTION__REJECTIONS_DAYS", "7000"),
            ("APP__RETENTION__DELETE_ADOPTED_ROWS", setting),
        ];
        stdout(&run(folder.path(), &["retention", "prune"], &variables))
    };
    // Without the record of the migrations, these tables look like those of another program.
    database
        .execute_script("DROP TABLE cloudflare_images_webhook_migrations")
        .await;
    let migrated = run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", &database.url)],
    );
    assert!(migrated.status.success());
    database
        .execute_script(
            "INSERT INTO cloudflare_image_logs (timestamp, event_type) VALUES ('1999-12-31T00:00:00.000000Z', 'webhook_received');
             INSERT INTO webhook_rejections (received_at, status, reason) VALUES ('1999-12-31T00:00:00.000000Z', 400, 'made-up')",
        )
        .await;

    let by_default = prune("false");
    let rows_by_default = rows(&database).await;
    let with_setting = prune("true");

    assert_eq!(
        by_default,
        "cloudflare_image_logs: 1 rows were deleted\n\
         webhook_rejections: 1 rows were deleted\n\
         relay_deliveries: 0 rows were deleted\n"
    );
    assert_eq!(rows_by_default, (ALL_ROWS, ALL_ROWS));
    assert_eq!(
        with_setting,
        "cloudflare_image_logs: 2500 rows were deleted\n\
         webhook_rejections: 2500 rows were deleted\n\
         relay_deliveries: 0 rows were deleted\n"
    );
    assert_eq!(rows(&database).await, (NEW_ROWS, NEW_ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_delete_all_old_rows() {
    let database = database_with_old_rows(Database::postgres().await).await;
    let replica = App::start(database.for_replica()).await;
    let app = App::start(database).await;

    wait::until_async("all old rows are deleted", async || {
        rows(&app.database).await == (NEW_ROWS, NEW_ROWS)
    })
    .await;
    drop(replica);
}
