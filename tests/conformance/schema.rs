//! `Schema`: migrations and readiness of the database.

use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{PrunableTable, Store, StoreError};

use crate::fixture::{Backend, Fixture, on_every_backend};

on_every_backend!(
    lists_pending_migrations_until_run,
    lists_failed_migration_as_pending,
    ignores_migrations_of_newer_release,
    refuses_changed_migration,
    migrates_once_for_many_processes,
    accepts_writable_database,
    remembers_last_rows_of_adopted_tables,
    new_tables_have_no_adopted_rows,
    completes_index_after_partition_is_detached,
);

const MIGRATIONS: &str = "cloudflare_images_webhook_migrations";

async fn lists_pending_migrations_until_run(fixture: &Fixture) {
    let store = unmigrated(fixture).await;

    let before = pending(&store).await;
    store
        .schema
        .migrate()
        .await
        .expect("the migration succeeds");
    let after = pending(&store).await;

    assert!(!before.is_empty());
    assert!(before.is_sorted());
    assert!(after.is_empty());
}

/// Also if no migration is pending.
async fn refuses_changed_migration(fixture: &Fixture) {
    let store = fixture.open().await;
    let checksum = match fixture.backend() {
        Backend::Sqlite => "x'00'",
        Backend::Postgres | Backend::Pooler => r"'\x00'",
    };
    let change = format!("UPDATE {MIGRATIONS} SET checksum = {checksum} WHERE version = 3");
    fixture.database.execute_script(&change).await;

    let migrated = store.schema.migrate().await;

    let error = migrated.expect_err("a migration was changed");
    assert!(matches!(error, StoreError::Migration(_)), "{error:?}");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error} {source:?}");
    assert!(
        text.contains("migration 3 was previously applied but has been modified"),
        "{text}"
    );
}

async fn lists_failed_migration_as_pending(fixture: &Fixture) {
    let store = unmigrated(fixture).await;
    let all = pending(&store).await;
    store
        .schema
        .migrate()
        .await
        .expect("the migration succeeds");
    let sql = format!("UPDATE {MIGRATIONS} SET success = false WHERE version = 2");
    fixture.database.execute(&sql, &[]).await;

    let pending = pending(&store).await;

    assert!(all.contains(&2));
    assert_eq!(pending, [2]);
}

async fn ignores_migrations_of_newer_release(fixture: &Fixture) {
    let store = fixture.open().await;
    let sql = format!("UPDATE {MIGRATIONS} SET version = 9999 WHERE version = 1");
    fixture.database.execute(&sql, &[]).await;

    let pending = pending(&store).await;

    assert_eq!(pending, [1]);
}

async fn migrates_once_for_many_processes(fixture: &Fixture) {
    let (first, second) = (unmigrated(fixture).await, unmigrated(fixture).await);
    let versions = pending(&first).await.len();

    let migrated = tokio::join!(first.schema.migrate(), second.schema.migrate());

    assert!(migrated.0.is_ok() && migrated.1.is_ok(), "{migrated:?}");
    let rows = format!("SELECT count(*) FROM {MIGRATIONS}");
    let rows = fixture.database.count(&rows).await;
    assert_eq!(usize::try_from(rows), Ok(versions));
}

async fn accepts_writable_database(fixture: &Fixture) {
    let store = fixture.open().await;

    let checked = store.schema.check_writable().await;

    assert!(checked.is_ok(), "{checked:?}");
}

async fn remembers_last_rows_of_adopted_tables(fixture: &Fixture) {
    let _migrated = fixture.open().await;
    let time = "'1970-01-01T00:00:10.000000Z'";
    let script = format!(
        "INSERT INTO cloudflare_image_logs (id, event_type) VALUES (7, 'webhook_received');
         INSERT INTO webhook_rejections (id, received_at, status, reason) VALUES (8, {time}, 400, 'invalid-payload');
         INSERT INTO relay_deliveries (id, event_id, endpoint, due_at, created_at) VALUES (9, 'evt_1', 'app', {time}, {time});
         DROP TABLE {MIGRATIONS}"
    );
    fixture.database.execute_script(&script).await;

    let store = fixture.open().await;

    assert_eq!(last_adopted_ids(&store).await, [Some(7), Some(8), Some(9)]);
}

async fn new_tables_have_no_adopted_rows(fixture: &Fixture) {
    let store = fixture.open().await;

    assert_eq!(last_adopted_ids(&store).await, [None; 3]);
}

/// An audit log whose adoption was interrupted. Then an app detached the last partition without an index.
const INTERRUPTED_LOG: &str = "
    CREATE TABLE cloudflare_image_logs (
        id bigserial, image_id uuid, event_type varchar(50) NOT NULL, message text NOT NULL, data jsonb NOT NULL,
        timestamp timestamptz NOT NULL, PRIMARY KEY (id, timestamp)
    ) PARTITION BY RANGE (timestamp);
    CREATE TABLE logs_old PARTITION OF cloudflare_image_logs FOR VALUES FROM (MINVALUE) TO ('2024-01-01')
        PARTITION BY RANGE (timestamp);
    CREATE TABLE logs_2022 PARTITION OF logs_old FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
    CREATE TABLE logs_2023 PARTITION OF logs_old FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE INDEX cloudflare_image_logs_image_id_timestamp ON ONLY cloudflare_image_logs (image_id, timestamp);
    CREATE INDEX logs_old_index ON ONLY logs_old (image_id, timestamp);
    CREATE INDEX logs_2023_index ON logs_2023 (image_id, timestamp);
    ALTER INDEX cloudflare_image_logs_image_id_timestamp ATTACH PARTITION logs_old_index;
    ALTER INDEX logs_old_index ATTACH PARTITION logs_2023_index;
    ALTER TABLE logs_old DETACH PARTITION logs_2022;";

async fn completes_index_after_partition_is_detached(fixture: &Fixture) {
    if !fixture.database.is_postgres() {
        // SQLite has no partitioned tables.
        return;
    }
    fixture.database.execute_script(INTERRUPTED_LOG).await;

    let _migrated = fixture.open().await;

    let valid = "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid IN (
        SELECT relid FROM pg_partition_tree('cloudflare_image_logs_image_id_timestamp'))";
    assert_eq!(fixture.database.count(valid).await, 3);
}

#[tokio::test]
async fn refuses_read_only_server_on_postgres() {
    let fixture = Fixture::new(Backend::Postgres).await;
    let sql = "DO $$ BEGIN EXECUTE format(
        'ALTER DATABASE %I SET default_transaction_read_only = on', current_database()
    ); END $$";
    fixture.database.execute_script(sql).await;
    let store = unmigrated(&fixture).await;

    let checked = store.schema.check_writable().await;

    assert!(
        matches!(checked, Err(StoreError::ReadOnly { .. })),
        "{checked:?}"
    );
    fixture.close().await;
}

async fn unmigrated(fixture: &Fixture) -> Store {
    let subscriptions = Subscriptions::default();
    fixture
        .open_unmigrated(UnknownImages::Reject, subscriptions)
        .await
}

async fn last_adopted_ids(store: &Store) -> Vec<Option<i64>> {
    let mut ids = Vec::new();
    for table in PrunableTable::ALL {
        let reading = store.retention.last_adopted_id(table).await;
        ids.push(reading.expect("the query succeeds"));
    }
    ids
}

async fn pending(store: &Store) -> Vec<i64> {
    store.schema.pending().await.expect("the query succeeds")
}
