//! Adoption of tables that exist before the first migration: apps continue to use them, and tables
//! of other programs are refused.

use std::fs;
use std::process::{Child, Output, Stdio};

use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{LOGS, start, uploaded, wait_for_statuses};
use crate::support::app::App;
use crate::support::database::{Database, Lock};
use crate::support::program::{program, run, stderr};
use crate::support::subscriber::Subscriber;
use crate::support::wait;

/// The toolkit's schema, as Django creates it.
const DJANGO_SCHEMA: &str = include_str!("../fixtures/django_toolkit.sql");

const MIGRATIONS: i64 = 7;

/// The state of the audit log's index: `true` for a valid one.
const INDEX_STATES: &str = "SELECT indisvalid::text FROM pg_index
    WHERE indexrelid = to_regclass('cloudflare_image_logs_image_id_timestamp')";

/// The connections of this service to the database.
const CONNECTIONS: &str = "FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'cloudflare-images-webhook'";

pub(crate) async fn database_of_django() -> Database {
    let database = Database::postgres().await;
    database.execute_script(DJANGO_SCHEMA).await;
    database
}

/// Opens a transaction that the build of an index waits for. It locks no table.
pub(crate) async fn open_snapshot(database: &Database) -> Lock {
    database
        .hold_lock_of("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .await
}

/// Starts `migrate` without waiting for its end.
pub(crate) fn start_migration(database: &Database) -> Child {
    let folder = TempDir::new().expect("a folder");
    let mut command = program(folder.path());
    command.arg("migrate").env("DATABASE_URL", &database.url);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program runs")
}

pub(crate) fn migrate(database: &Database) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", &database.url)],
    )
}

pub(crate) fn assert_succeeds(migration: Child) {
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
pub(crate) async fn assert_adopted(database: &Database) {
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
    let connections =
        format!("SELECT count(*) {CONNECTIONS} AND query LIKE '%advisory_xact_lock%'");
    wait::until_async("the second process waits for the first", async || {
        database.count(&connections).await > 0
    })
    .await;

    read.release().await;

    assert_succeeds(first);
    assert_succeeds(second);
    assert_adopted(&database).await;
}

/// Returns the migrations of a release before the table of adoptions. It takes another lock: that of sqlx's migrator.
async fn older_release() -> Migrator {
    let folder = TempDir::new().expect("a folder");
    for file in fs::read_dir("migrations/postgres").expect("a folder") {
        let file = file.expect("a file");
        if *file.file_name() < *"0005" {
            let copy = folder.path().join(file.file_name());
            fs::copy(file.path(), copy).expect("it is copied");
        }
    }
    let mut migrator = Migrator::new(folder.path()).await.expect("migrations");
    migrator.dangerous_set_table_name("cloudflare_images_webhook_migrations");
    migrator.set_ignore_missing(true);
    migrator
}

#[tokio::test]
async fn adopts_beside_older_release() {
    let older_release = older_release().await;
    for _ in 0..8 {
        let database = database_of_django().await;
        let connect = async || {
            PgConnection::connect(&database.url)
                .await
                .expect("a server")
        };
        let mut connection = connect().await;

        let migration = start_migration(&database);
        // If both run the same migration, the older release may fail. It then starts again.
        while older_release.run(&mut connection).await.is_err() {
            connection = connect().await;
        }

        assert_succeeds(migration);
        assert_adopted(&database).await;
    }
}

/// Without the record of the adoption, retention would delete the adopted rows.
#[tokio::test]
async fn records_adoption_after_older_release() {
    let older_release = older_release().await;
    let database = database_of_django().await;
    let snapshot = open_snapshot(&database).await;
    let migration = start_migration(&database);
    wait_for_index_build(&database).await;

    let audit_log = older_release
        .iter()
        .find(|migration| migration.version == 2);
    let audit_log = audit_log.expect("it exists");
    let recording = sqlx::query(
        "INSERT INTO cloudflare_images_webhook_migrations (version, description, success, checksum, execution_time)
         VALUES (2, $1, true, $2, 0)",
    );
    let mut connection = PgConnection::connect(&database.url)
        .await
        .expect("a server");
    recording
        .bind(&*audit_log.description)
        .bind(&*audit_log.checksum)
        .execute(&mut connection)
        .await
        .expect("it is recorded");
    snapshot.release().await;

    assert_succeeds(migration);
    assert_adopted(&database).await;
    let adopted = "SELECT table_name || ' ' || last_id FROM cloudflare_images_webhook_adoptions";
    assert_eq!(database.texts(adopted).await, ["cloudflare_image_logs 1"]);
}

/// An older release runs its migration beside an index whose build was interrupted.
#[tokio::test]
async fn replaces_invalid_index_of_older_release() {
    let database = database_of_django().await;
    assert!(migrate(&database).status.success());
    database
        .execute_script(
            "UPDATE pg_index SET indisvalid = false
             WHERE indexrelid = 'cloudflare_image_logs_image_id_timestamp'::regclass",
        )
        .await;

    let output = migrate(&database);

    assert!(output.status.success(), "{}", stderr(&output));
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
            "ALTER TABLE cloudflare_images DROP CONSTRAINT cloudflare_images_cloudflare_id_key",
            "its column cloudflare_id has no unique index",
        ),
        (
            "ALTER TABLE cloudflare_images DROP CONSTRAINT cloudflare_images_cloudflare_id_key;
             CREATE UNIQUE INDEX ON cloudflare_images (cloudflare_id) WHERE status <> 'expired'",
            "its column cloudflare_id has no unique index",
        ),
        (
            "CREATE VIEW relay_events AS SELECT 1 AS id",
            "it, or one of its partitions, is not an ordinary table",
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

/// Types that Django's `AutoField` and apps use, and columns that a trigger fills.
#[tokio::test]
async fn adopts_tables_with_similar_columns() {
    let database = database_of_django().await;
    database
        .execute_script(
            "ALTER TABLE cloudflare_image_logs ALTER COLUMN id TYPE integer;
             CREATE EXTENSION citext;
             ALTER TABLE cloudflare_images ALTER COLUMN creator TYPE citext, ALTER COLUMN upload_url TYPE citext;
             CREATE DOMAIN kind AS varchar(100);
             ALTER TABLE cloudflare_images ALTER COLUMN content_type TYPE kind, ALTER COLUMN filename TYPE kind;
             ALTER TABLE cloudflare_image_logs ALTER COLUMN event_type TYPE kind;
             ALTER TABLE cloudflare_image_logs ADD COLUMN tenant integer NOT NULL DEFAULT 1;
             ALTER TABLE cloudflare_image_logs ALTER COLUMN tenant DROP DEFAULT;
             CREATE FUNCTION set_tenant() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN NEW.tenant := 7; RETURN NEW; END';
             CREATE TRIGGER set_tenant BEFORE INSERT ON cloudflare_image_logs
                 FOR EACH ROW EXECUTE FUNCTION set_tenant()",
        )
        .await;
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;

    let webhook = app.post_webhook(uploaded("django-pending")).await;

    assert_eq!(webhook.outcome(), (200, "applied"));
    wait_for_statuses(&app.database, &["delivered"]).await;
    let tenants = "SELECT count(*) FROM cloudflare_image_logs WHERE tenant = 7";
    assert_eq!(app.database.count(tenants).await, 1);
    let adopted = "SELECT last_id FROM cloudflare_images_webhook_adoptions";
    assert_eq!(app.database.count(adopted).await, 1);
}

/// The names of the types are an app's choice on SQLite.
#[tokio::test]
async fn adopts_sqlite_tables_with_uuids() {
    let (database, create) = database_without_images().await;
    let create = create.replacen("id text", "id uuid", 1);
    database.execute_script(&create).await;
    let app = App::start(database).await;

    app.database.register("image").await;

    let webhook = app.post_webhook(uploaded("image")).await;
    assert_eq!(webhook.outcome(), (200, "applied"));
}

#[tokio::test]
async fn refuses_sqlite_tables_without_defaults() {
    for (before, after, reason) in [
        (
            "filename text NOT NULL DEFAULT ''",
            "filename text NOT NULL",
            "its column filename is NOT NULL without a default",
        ),
        (
            "CONSTRAINT cloudflare_images_cloudflare_id_key UNIQUE",
            "",
            "its column cloudflare_id has no unique index",
        ),
    ] {
        let (database, create) = database_without_images().await;
        assert!(create.contains(before), "{create}");
        database
            .execute_script(&create.replacen(before, after, 1))
            .await;

        let output = migrate(&database);

        assert_eq!(output.status.code(), Some(1), "{after}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

/// A refused file is not changed, not even its journal mode.
#[tokio::test]
async fn refused_file_stays_unchanged() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("other.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    let mut other = SqliteConnection::connect(&url).await.expect("it opens");
    let create = other.execute("CREATE TABLE relay_events (title text)");
    create.await.expect("a table");
    other.close().await.expect("it closes");
    let before = fs::read(&file).expect("a file");

    let url = format!("sqlite://{}", file.display());
    for arguments in [["images", "list"].as_slice(), &["migrate"]] {
        let output = run(folder.path(), arguments, &[("DATABASE_URL", &url)]);

        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("relay_events exists already"),
            "{}",
            stderr(&output)
        );
        assert!(fs::read(&file).expect("a file") == before, "{arguments:?}");
    }
}

/// Returns a SQLite database without images that was never migrated, and the statement that creates their table.
async fn database_without_images() -> (Database, String) {
    let database = Database::sqlite();
    assert!(migrate(&database).status.success());
    let create = "SELECT sql FROM sqlite_master WHERE name = 'cloudflare_images'";
    let create = database.texts(create).await.remove(0);
    database
        .execute_script(
            "DROP TABLE cloudflare_images; DROP TABLE cloudflare_images_webhook_migrations",
        )
        .await;
    (database, create)
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
    assert_eq!(tables.len(), 10);

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
