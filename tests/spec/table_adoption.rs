//! Adoption of tables that exist before the first migration: apps continue to use them, and tables
//! of other programs are refused.

use std::process::{Child, Output, Stdio};

use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::database::{Database, Lock};
use crate::support::program::{program, run, stderr};
use crate::support::wait;

/// The toolkit's schema, as Django creates it.
const DJANGO_SCHEMA: &str = include_str!("../fixtures/django_toolkit.sql");

const MIGRATIONS: i64 = 5;

/// The state of the audit log's index: `true` for a valid one.
const INDEX_STATES: &str = "SELECT indisvalid::text FROM pg_index
    WHERE indexrelid = to_regclass('cloudflare_image_logs_image_id_timestamp')";

/// The connections of this service to the database.
const CONNECTIONS: &str = "FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'cloudflare-images-webhook'";

async fn database_of_django() -> Database {
    let database = Database::postgres().await;
    database.execute_script(DJANGO_SCHEMA).await;
    database
}

/// Opens a transaction that the build of an index waits for. It locks no table.
async fn open_snapshot(database: &Database) -> Lock {
    database
        .hold_lock_of("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .await
}

/// Starts `migrate` without waiting for its end.
fn start_migration(database: &Database) -> Child {
    let folder = TempDir::new().expect("a folder");
    let mut command = program(folder.path());
    command.arg("migrate").env("DATABASE_URL", &database.url);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program runs")
}

fn migrate(database: &Database) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", &database.url)],
    )
}

fn assert_succeeds(migration: Child) {
    let output = migration.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
}

async fn wait_for_index_build(database: &Database) {
    wait::until_async("the build of the index waits", async || {
        database.texts(INDEX_STATES).await == ["false"] && database.lock_waiters().await > 0
    })
    .await;
}

/// Checks that the adoption is complete.
async fn assert_adopted(database: &Database) {
    assert_eq!(database.texts(INDEX_STATES).await, ["true"]);
    let applied = "SELECT count(*) FROM cloudflare_images_webhook_migrations WHERE success";
    assert_eq!(database.count(applied).await, MIGRATIONS);
}

#[tokio::test]
async fn apps_use_tables_during_index_build() {
    let database = database_of_django().await;
    let snapshot = open_snapshot(&database).await;
    let migration = start_migration(&database);
    wait_for_index_build(&database).await;

    // Each of these statements would wait for a lock of the migration.
    database.register("during-the-build").await;
    database
        .execute(
            "INSERT INTO cloudflare_image_logs (image_id, event_type)
             SELECT id, 'upload_url_created' FROM cloudflare_images WHERE cloudflare_id = $1",
            &["during-the-build"],
        )
        .await;
    let rows = database.images_and_logs().await;

    assert_eq!(database.texts(INDEX_STATES).await, ["false"]);
    assert_eq!(rows.len(), 5);
    snapshot.release().await;
    assert_succeeds(migration);
    assert_adopted(&database).await;
}

#[tokio::test]
async fn retries_while_app_holds_lock() {
    for table in ["cloudflare_images", "cloudflare_image_logs"] {
        let database = database_of_django().await;
        let read = database
            .hold_lock_of(&format!("SELECT FROM {table} LIMIT 1"))
            .await;
        let migration = start_migration(&database);
        database.wait_for_lock_waiter().await;

        wait::until_async("the migration no longer waits", async || {
            database.lock_waiters().await == 0
        })
        .await;
        read.release().await;

        assert_succeeds(migration);
        assert_adopted(&database).await;
    }
}

#[tokio::test]
async fn continues_after_kill_during_index_build() {
    for server_continues in [true, false] {
        let database = database_of_django().await;
        let snapshot = open_snapshot(&database).await;
        let mut killed = start_migration(&database);
        wait_for_index_build(&database).await;
        killed.kill().expect("it runs");
        killed.wait().expect("it has ended");
        if !server_continues {
            let end = format!("SELECT count(pg_terminate_backend(pid)) {CONNECTIONS}");
            assert_eq!(database.count(&end).await, 1);
        }

        let migration = start_migration(&database);
        if !server_continues {
            wait_for_index_build(&database).await;
        }
        snapshot.release().await;

        assert_succeeds(migration);
        assert_adopted(&database).await;
    }
}

#[tokio::test]
async fn replicas_adopt_at_same_time() {
    let database = database_of_django().await;
    let read = database
        .hold_lock_of("SELECT FROM cloudflare_image_logs LIMIT 1")
        .await;
    let first = start_migration(&database);
    database.wait_for_lock_waiter().await;
    let second = start_migration(&database);
    let connections = format!("SELECT count(*) {CONNECTIONS} AND query LIKE '%advisory_lock%'");
    wait::until_async("the second process waits for the first", async || {
        database.count(&connections).await > 0
    })
    .await;

    read.release().await;

    assert_succeeds(first);
    assert_succeeds(second);
    assert_adopted(&database).await;
}

#[tokio::test]
async fn drops_and_logs_only_foreign_key_of_image() {
    let database = database_of_django().await;
    database
        .execute_script(
            "CREATE TABLE tenants (id integer PRIMARY KEY);
             ALTER TABLE cloudflare_image_logs ADD COLUMN tenant integer CONSTRAINT of_tenant REFERENCES tenants (id)",
        )
        .await;

    let output = migrate(&database);

    assert!(output.status.success(), "{}", stderr(&output));
    let remaining = "SELECT conname::text FROM pg_constraint
        WHERE conrelid = 'cloudflare_image_logs'::regclass AND contype = 'f'";
    assert_eq!(database.texts(remaining).await, ["of_tenant"]);
    let log = stderr(&output);
    let line = |message: &str| {
        let line = log.lines().find(|line| line.contains(message));
        line.unwrap_or_else(|| panic!("no line {message:?} in {log}"))
    };
    let dropping = line("dropping a foreign key of an adopted table");
    assert!(dropping.contains("cloudflare_image_logs_image_id_0c8f1b2d_fk_cloudflare_images_id"));
    assert!(dropping.contains("REFERENCES cloudflare_images(id)"));
    assert!(line("keeping a foreign key of an adopted table").contains("of_tenant"));
}

#[tokio::test]
async fn refuses_unsuitable_columns_of_django_tables() {
    for (change, reason) in [
        (
            "ALTER TABLE cloudflare_images DROP COLUMN creator",
            "cloudflare_images exists already and cannot be adopted, because it has no column creator",
        ),
        (
            "ALTER TABLE cloudflare_images ADD COLUMN error boolean",
            "its column error has the type boolean instead of text",
        ),
        (
            "ALTER TABLE cloudflare_image_logs DROP COLUMN id;
             ALTER TABLE cloudflare_image_logs ADD COLUMN id uuid DEFAULT gen_random_uuid() PRIMARY KEY",
            "its column id has the type uuid instead of bigint",
        ),
        (
            "ALTER TABLE cloudflare_image_logs ALTER COLUMN id DROP IDENTITY",
            "its column id has no default",
        ),
        (
            "ALTER TABLE cloudflare_image_logs ADD COLUMN owner integer NOT NULL DEFAULT 1;
             ALTER TABLE cloudflare_image_logs ALTER COLUMN owner DROP DEFAULT",
            "its column owner is NOT NULL without a default",
        ),
        (
            "CREATE VIEW relay_events AS SELECT 1 AS id",
            "it is not an ordinary table",
        ),
    ] {
        let database = database_of_django().await;
        database.execute_script(change).await;
        let before = definitions(&database).await;

        let output = migrate(&database);

        assert_eq!(output.status.code(), Some(1), "{change}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert_eq!(definitions(&database).await, before, "{change}");
    }
}

on_both_databases!(refuses_table_of_other_program);

async fn refuses_table_of_other_program(database: Database) {
    let create_file = migrate(&database);
    assert!(create_file.status.success());
    let tables = if database.is_postgres() {
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    };
    let mut tables = database.texts(tables).await;
    let drop_all = tables.iter().map(|table| format!("DROP TABLE {table};"));
    database.execute_script(&drop_all.collect::<String>()).await;
    // Another program has no table with the name of the service.
    tables.retain(|table| !table.starts_with("cloudflare_images_webhook_"));
    assert_eq!(tables.len(), 7);

    for table in tables {
        let create = format!(
            "CREATE TABLE {table} (number integer, title varchar(100));
             INSERT INTO {table} VALUES (7, 'seven')"
        );
        database.execute_script(&create).await;
        let before = definitions(&database).await;

        let output = migrate(&database);

        assert_eq!(output.status.code(), Some(1), "{table}");
        let expected = format!("the table {table} exists already and cannot be adopted");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
        assert_eq!(definitions(&database).await, before, "{table}");
        let titles = database.texts(&format!("SELECT title FROM {table}")).await;
        assert_eq!(titles, ["seven"]);
        database
            .execute_script(&format!("DROP TABLE {table}"))
            .await;
    }
}

/// Returns the columns of all tables and the names of all indexes and constraints.
async fn definitions(database: &Database) -> Vec<String> {
    let sql = if database.is_postgres() {
        "SELECT format('%s.%s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod)) AS definition
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'public'::regnamespace
         UNION ALL SELECT conname::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace
         ORDER BY definition"
    } else {
        "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_master ORDER BY name"
    };
    database.texts(sql).await
}
