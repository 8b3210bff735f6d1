//! Adoption of an audit log that is partitioned by time in Postgres.

use serde_json::json;

use crate::relay_delivery::uploaded;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::stderr;
use crate::support::wait;
use crate::table_adoption::{
    assert_adopted, assert_succeeds, database_of_django, migrate, open_snapshot, start_migration,
};

/// An audit log with partitions, of which one is partitioned again and has a name that needs quotes.
const PARTITIONED_LOG: &str = "DROP TABLE cloudflare_image_logs;
    CREATE TABLE cloudflare_image_logs (
        id bigserial,
        image_id uuid NOT NULL REFERENCES cloudflare_images (id),
        event_type varchar(50) NOT NULL,
        message text NOT NULL,
        data jsonb NOT NULL,
        timestamp timestamptz NOT NULL,
        PRIMARY KEY (id, timestamp)
    ) PARTITION BY RANGE (timestamp);
    CREATE TABLE logs_old PARTITION OF cloudflare_image_logs FOR VALUES FROM (MINVALUE) TO ('2024-01-01')
        PARTITION BY RANGE (timestamp);
    CREATE TABLE \"Logs of 2023\" PARTITION OF logs_old FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE logs_new PARTITION OF cloudflare_image_logs FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
    ALTER TABLE logs_new ADD FOREIGN KEY (image_id) REFERENCES cloudflare_images (id);
    INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
    SELECT id, 'upload_url_created', '', '{}', time
    FROM cloudflare_images, (VALUES (timestamptz '2023-06-01'), ('2025-06-01')) AS times (time);";

/// The number of indexes of the audit log and of its partitions that are invalid.
const INVALID_INDEXES: &str = "SELECT count(*) FROM pg_index
    WHERE NOT indisvalid AND indrelid IN (SELECT relid FROM pg_partition_tree('cloudflare_image_logs'))";

async fn partitioned_database() -> Database {
    let database = database_of_django().await;
    database.execute_script(PARTITIONED_LOG).await;
    database
}

/// Checks that the adoption is complete in all partitions.
async fn assert_all_adopted(database: &Database) {
    assert_adopted(database).await;
    assert_eq!(database.count(INVALID_INDEXES).await, 0);
    let indexes =
        "SELECT count(*) FROM pg_partition_tree('cloudflare_image_logs_image_id_timestamp')";
    assert_eq!(database.count(indexes).await, 4);
}

#[tokio::test]
async fn adopts_partitioned_log() {
    let app = App::start(partitioned_database().await).await;
    let database = &app.database;
    let before = database.logs().await.len();

    let created = app.post_webhook(uploaded("new")).await;
    database.register("image").await;
    let applied = app.post_webhook(uploaded("image")).await;

    assert_eq!(created.outcome(), (404, "unknown-image"));
    assert_eq!(applied.outcome(), (200, "applied"));
    assert!(database.logs().await.len() > before);
    assert_all_adopted(database).await;
    let foreign_keys = "SELECT count(*) FROM pg_constraint
        WHERE contype = 'f' AND conrelid IN (SELECT relid FROM pg_partition_tree('cloudflare_image_logs'))";
    assert_eq!(database.count(foreign_keys).await, 0);
    database
        .execute_script("CREATE TABLE later PARTITION OF logs_old FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')")
        .await;
    assert_eq!(database.count(INVALID_INDEXES).await, 0);
}

#[tokio::test]
async fn continues_partitions_after_kill() {
    let database = partitioned_database().await;
    let snapshot = open_snapshot(&database).await;
    let mut killed = start_migration(&database);
    let build_waits =
        async || database.count(INVALID_INDEXES).await >= 2 && database.lock_waiters().await > 0;
    wait::until_async("the build of a partition's index waits", build_waits).await;

    // Each of these statements would wait for a lock of the migration.
    database
        .execute_script(
            "INSERT INTO cloudflare_image_logs (image_id, event_type, timestamp)
             SELECT id, 'upload_url_created', time
             FROM cloudflare_images, (VALUES (timestamptz '2023-07-01'), ('2025-07-01')) AS times (time);
             SELECT count(*) FROM cloudflare_image_logs WHERE image_id IS NULL",
        )
        .await;
    killed.kill().expect("it runs");
    killed.wait().expect("it has ended");

    let migration = start_migration(&database);
    snapshot.release().await;
    assert_succeeds(migration);
    assert_all_adopted(&database).await;
    let rows = database.logs().await;
    let inserted = rows.iter().filter(|row| row["message"] == json!(""));
    assert_eq!(inserted.count(), rows.len());
}

#[tokio::test]
async fn waits_for_locks_of_apps() {
    let database = partitioned_database().await;
    let read = database
        .hold_lock_of("SELECT FROM cloudflare_image_logs LIMIT 1")
        .await;
    let migration = start_migration(&database);
    database.wait_for_lock_waiter().await;

    read.release().await;

    assert_succeeds(migration);
    assert_all_adopted(&database).await;
}

#[tokio::test]
async fn refuses_foreign_partitions() {
    let database = partitioned_database().await;
    database
        .execute_script(
            "ALTER TABLE cloudflare_image_logs
                 DROP CONSTRAINT cloudflare_image_logs_pkey, DROP CONSTRAINT cloudflare_image_logs_image_id_fkey;
             CREATE FOREIGN DATA WRAPPER archive;
             CREATE SERVER archive FOREIGN DATA WRAPPER archive;
             CREATE FOREIGN TABLE logs_archive PARTITION OF logs_old FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')
                 SERVER archive;",
        )
        .await;

    let output = migrate(&database);

    assert_eq!(output.status.code(), Some(1));
    let obstacle = "it, or one of its partitions, is not an ordinary table";
    assert!(stderr(&output).contains(obstacle), "{}", stderr(&output));
}
