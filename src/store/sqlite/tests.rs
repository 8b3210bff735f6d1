//! SQLite specifics: one file, one writer and a write-ahead log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection, Row, SqliteConnection, SqlitePool};
use tempfile::TempDir;

use super::checkpoints::WRITES_PER_CHECKPOINT;
use super::connections::{MAX_WAL_BYTES, OPEN_RETRY_INTERVAL, check_journal_mode};
use super::session::Sqlite;
use crate::clock::ClockReading;
use crate::domain::event::Subscriptions;
use crate::domain::json::Json;
use crate::domain::notification::{Content, Notification, RequestInfo, UnknownImages};
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::Inbox;
use crate::store::inbox::record::RecordPolicy;
use crate::store::outbox::router::EventRouter;
use crate::store::outbox::{Claim, ExpiredLeases, LeaseResult, Outbox, Settlement};
use crate::store::schema::Schema;
use crate::store::settings::Settings;
use crate::telemetry::chain;

fn settings(timeout_secs: u64) -> Settings {
    let settings = serde_json::json!({
        "url": "sqlite://unused", "pooler": "auto", "max_connections": 1, "writers": 1, "batch_limit": 1, "queue_limit": 1,
        "acquire_timeout_secs": 1, "timeout_secs": timeout_secs, "migrate_on_start": true
    });
    serde_json::from_value(settings).expect("valid settings")
}

fn policy_without_endpoints() -> RecordPolicy {
    RecordPolicy {
        lookups_wakeup: Arc::default(),
        unknown_images: UnknownImages::Reject,
        router: EventRouter::new(Subscriptions::default()),
    }
}

async fn open(folder: &Path) -> Sqlite {
    let file = folder.join("images.db");
    Sqlite::open(&file, &settings(10), policy_without_endpoints())
        .await
        .expect("it opens")
}

async fn migrated() -> (TempDir, Sqlite) {
    let folder = TempDir::new().expect("a folder");
    let database = open(folder.path()).await;
    database.migrate().await.expect("it migrates");
    (folder, database)
}

fn writer(database: &Sqlite) -> SqlitePool {
    database.connections().expect("it is open").writer.clone()
}

/// Creates a file that is not in WAL mode.
async fn connect_without_wal(folder: &TempDir) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.path().join("images.db"));
    let options = options.create_if_missing(true);
    let connected = SqliteConnection::connect_with(&options).await;
    connected.expect("a file without WAL")
}

fn test_message(payload: Json) -> Arc<Notification> {
    Arc::new(Notification {
        content: Content::TestMessage,
        payload,
        received_at: Timestamp::from_unix_seconds(0).expect("a time"),
        request_info: RequestInfo::default(),
    })
}

#[tokio::test]
async fn sets_durable_pragmas_and_busy_timeout() {
    let folder = TempDir::new().expect("a folder");
    let database = open(folder.path()).await;

    for (pragma, expected) in [
        ("PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous", "2"), // FULL
        ("PRAGMA foreign_keys", "1"),
        ("PRAGMA busy_timeout", "9000"),
    ] {
        let row = sqlx::query(pragma)
            .fetch_one(&writer(&database))
            .await
            .expect("a value");
        let value = row
            .try_get::<String, _>(0)
            .or_else(|_| row.try_get::<i64, _>(0).map(|number| number.to_string()));

        assert_eq!(value.expect("text or a number"), expected, "{pragma}");
    }
}

#[tokio::test]
async fn claim_and_settle_restore_fsync() {
    let (_folder, database) = migrated().await;
    let insert_due = "INSERT INTO relay_events VALUES ('evt_1', 'updated', 'm', NULL, '{}', '2024-01-01T12:00:00.000000Z');
        INSERT INTO relay_deliveries (event_id, endpoint, due_at, created_at) VALUES ('evt_1', 'app', '2024', '2024');";
    let filled = sqlx::raw_sql(insert_due).execute(&writer(&database)).await;
    filled.expect("a delivery");
    let now = Timestamp::parse_rfc3339("2024-01-01T13:00:00Z").expect("a time");
    let claim = Claim {
        endpoint: "app",
        limit: 1,
        ordered: false,
        ignores_pause: false,
        expired_leases: ExpiredLeases::One,
        now: ClockReading::Manual(now),
        duration: Duration::ZERO,
        lease: "lease",
    };
    let synchronous = async || {
        let level = sqlx::query_scalar("PRAGMA synchronous");
        let level: i64 = level.fetch_one(&writer(&database)).await.expect("a level");
        level
    };
    let leased = database
        .claim(&claim)
        .await
        .expect("a claim")
        .leased
        .remove(0);
    let after_claim = synchronous().await;
    let settlement = Settlement {
        delivery: leased.id,
        lease: "lease".into(),
        now: ClockReading::Manual(now),
        ordered: false,
        result: LeaseResult::Filtered,
    };
    let settled = database.settle(&[settlement]).await.expect("a settlement");

    assert_eq!(
        (settled.lost_leases, after_claim, synchronous().await),
        (0, 2, 2),
        "2 is FULL"
    );
}

#[tokio::test]
async fn open_waits_for_lock_of_other_process() {
    let folder = TempDir::new().expect("a folder");
    let mut other = connect_without_wal(&folder).await;
    let writing = other.begin_with("BEGIN IMMEDIATE").await;
    let writing = writing.expect("a transaction");

    let opening = tokio::spawn(async move { (open(folder.path()).await, folder) });
    tokio::time::sleep(10 * OPEN_RETRY_INTERVAL).await;
    assert!(!opening.is_finished());
    writing.rollback().await.expect("it ends");

    opening.await.expect("it opens");
}

#[tokio::test]
async fn writer_recovers_from_full_disk() {
    let (_folder, database) = migrated().await;
    let long = Json::from_canonical(format!("\"{}\"", "x".repeat(100_000)));
    // The limit belongs to this connection. The failure discards the connection.
    sqlx::query("PRAGMA max_page_count = 1")
        .execute(&writer(&database))
        .await
        .expect("no more pages");

    let message = test_message(long);
    let full = database.record(&[Arc::clone(&message)]).await;
    let full = full.expect_err("a full disk");
    let recorded = database.record(&[message]).await;
    let recorded = recorded.expect("the new connection has no limit");

    assert!(matches!(full, StoreError::Database { .. }), "{full:?}");
    assert_eq!(recorded, [Outcome::Test]);
}

#[tokio::test]
async fn checkpoints_run_without_the_writer() {
    let (folder, database) = migrated().await;
    let batch =
        vec![test_message(Json::from_canonical("{}".to_owned())); WRITES_PER_CHECKPOINT / 2];

    for _ in 0..2 {
        database.record(&batch).await.expect("it is recorded");
    }

    let entries_in_file = async || {
        // A copy without the write-ahead log.
        let copy = folder.path().join("copy.db");
        std::fs::copy(folder.path().join("images.db"), &copy).expect("it is copied");
        let options = SqliteConnectOptions::new().filename(copy).immutable(true);
        let mut copy = SqliteConnection::connect_with(&options).await?;
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM cloudflare_image_logs")
            .fetch_one(&mut copy)
            .await
    };
    let copied = async {
        // A copy made during a checkpoint may be inconsistent.
        while !entries_in_file().await.is_ok_and(|entries| entries > 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let copied = tokio::time::timeout(Duration::from_secs(30), copied).await;
    copied.expect("a checkpoint copies the entries into the file");

    database.close().await;
}

/// An error closes the connection of the writer, which can be the only one that was used.
#[tokio::test]
async fn writes_again_after_error() {
    let (folder, database) = migrated().await;
    let trigger =
        "CREATE TRIGGER refuse BEFORE INSERT ON cloudflare_image_logs WHEN NEW.data LIKE '%bad%'
        BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let created = sqlx::raw_sql(trigger).execute(&writer(&database)).await;
    created.expect("a trigger");
    let [good, bad] =
        ["{}", r#"{"bad":1}"#].map(|text| test_message(Json::from_canonical(text.to_owned())));
    database
        .record(&[Arc::clone(&good)])
        .await
        .expect("it is recorded");

    // While the WAL is open here, another file cannot get its inode.
    let _wal = std::fs::File::open(folder.path().join("images.db-wal")).expect("a WAL");
    let refused = database.record(&[bad]).await;
    let recorded = database.record(&[good]).await;

    assert!(refused.is_err());
    assert_eq!(recorded.expect("it is recorded"), [Outcome::Test]);
}

#[tokio::test]
async fn wal_size_is_limited() {
    let (folder, database) = migrated().await;
    let mebibyte = Json::from_canonical(format!("\"{}\"", "x".repeat(1024 * 1024)));
    let batch = vec![test_message(mebibyte); 8];

    for _ in 0..12 {
        database.record(&batch).await.expect("it is recorded");
    }

    let wal = std::fs::metadata(folder.path().join("images.db-wal")).expect("a WAL file");
    let max_bytes = u64::try_from(MAX_WAL_BYTES).expect("positive");
    let batch_bytes = 8 * 1024 * 1024;
    assert!(
        wal.len() < max_bytes + 2 * batch_bytes,
        "the WAL has {} bytes",
        wal.len()
    );
}

/// Older versions can lose a commit if one connection runs a checkpoint while another restarts the
/// WAL (<https://sqlite.org/wal.html>, "The WAL-Reset Bug").
#[tokio::test]
async fn sqlite_version_has_safe_checkpoints() {
    let folder = TempDir::new().expect("a folder");
    let database = open(folder.path()).await;

    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&writer(&database))
        .await
        .expect("a version");

    let version: Vec<u32> = version.split('.').flat_map(str::parse).collect();
    assert!(version >= vec![3, 51, 3], "{version:?}");
}

#[tokio::test]
async fn error_names_lock_on_new_file() {
    let folder = TempDir::new().expect("a folder");
    let mut app = connect_without_wal(&folder).await;
    let writing = app.begin_with("BEGIN IMMEDIATE").await;
    let _writing = writing.expect("a transaction");

    let file = folder.path().join("images.db");
    let opened = Sqlite::open(&file, &settings(1), policy_without_endpoints()).await;

    let error = chain(&opened.err().expect("it cannot be opened"));
    assert!(error.contains("database is locked"), "{error}");
}

#[tokio::test]
async fn has_one_writer() {
    let folder = TempDir::new().expect("a folder");
    let database = open(folder.path()).await;

    let _held = writer(&database).acquire().await.expect("a connection");

    assert!(writer(&database).try_acquire().is_none());
    assert_eq!(writer(&database).options().get_max_connections(), 1);
}

#[tokio::test]
async fn refuses_a_journal_mode_other_than_wal() {
    let folder = TempDir::new().expect("a folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("images.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Without locks, SQLite has no shared memory.
        .vfs("unix-none");
    let pool = SqlitePool::connect_with(options).await.expect("it opens");

    let error = check_journal_mode(&pool).await.expect_err("no WAL");

    assert!(
        error.to_string().contains("keeps the journal mode delete"),
        "{error}"
    );
}
