//! SQLite: one writer, a few readers, and the traits on them.

mod catalog;
mod checkpoints;
mod inbox;
mod schema;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteError, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use self::checkpoints::Checkpoints;
use super::row::{StateColumns, undecodable};
use super::{Closing, Failure, Place, Settings, StoreError, within};
use crate::domain::notification::UnknownImages;
use crate::domain::timestamp::Timestamp;

/// Readers see the last commit and never wait for the writer; few are needed, since only people and probes read.
const MAX_READERS: u32 = 4;

/// How much of the file each connection keeps in memory: in KiB, when it is negative.
const CACHE_KIB: &str = "-8192";

/// How many pages of 4 KiB the log ahead of the file may have before the writer itself moves them into the file, and so begins the
/// log anew. Most have been moved by then, by a task beside it.
const CHECKPOINT_PAGES: &str = "16000";

/// How long to wait before a file that another process has locked is opened again.
const OPEN_RETRY: Duration = Duration::from_millis(20);

/// A SQLite database.
pub(super) struct Sqlite {
    /// The only connection that writes: SQLite has one writer at a time, and a queue of our own is fairer than its lock.
    writer: SqlitePool,
    readers: SqlitePool,
    checkpoints: Checkpoints,
    place: Place,
    deadline: Duration,
    unknown_images: UnknownImages,
}

impl Sqlite {
    /// Opens the file, and makes it and its folder when they are missing.
    pub(super) async fn open(
        path: &Path,
        settings: &Settings,
        unknown_images: UnknownImages,
    ) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
                folder: folder.to_owned(),
                source,
            })?;
        }
        let place: Place = path.display().to_string().into();
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL, anything less than FULL can lose the last commits when the power fails.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("cache_size", CACHE_KIB)
            // What a statement might have to undo within its transaction is kept in memory, and not in a file.
            .pragma("temp_store", "MEMORY")
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            // Another process may write too, an app or our own command line. It is waited for a little less long than the
            // operation's deadline, so that the error names the lock.
            .busy_timeout(deadline.mul_f64(0.9));

        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(acquire_timeout)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let opening = async {
            loop {
                match pool(1).connect_with(options.clone()).await {
                    // Another process that switches the new file to WAL is not waited for: SQLite sees a deadlock there.
                    Err(error) if is_busy(&error) => tokio::time::sleep(OPEN_RETRY).await,
                    opened => return Ok(opened?),
                }
            }
        };
        let writer = within(&place, deadline, "opening the file", opening).await?;
        let readers = pool(MAX_READERS).connect_lazy_with(options.create_if_missing(false));
        Ok(Self {
            writer,
            checkpoints: Checkpoints::start(readers.clone()),
            readers,
            place,
            deadline,
            unknown_images,
        })
    }
}

#[async_trait]
impl Closing for Sqlite {
    async fn close(&self) {
        self.checkpoints.stop().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The columns of [`StateColumns`].
macro_rules! state_columns {
    () => {
        "id, cloudflare_id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls,
         variants, cloudflare_metadata, details_at"
    };
}
use state_columns;

fn read_state(row: &SqliteRow) -> Result<StateColumns, Failure> {
    let id = read_uuid(row)?;
    Ok(StateColumns {
        id,
        cloudflare_id: row.try_get("cloudflare_id")?,
        status: row.try_get("status")?,
        status_at: read_time(row, "status_at", id)?,
        uploaded_at: read_time(row, "uploaded_at", id)?,
        error: row.try_get("error")?,
        filename: row.try_get("filename")?,
        creator: row.try_get("creator")?,
        require_signed_urls: row.try_get("require_signed_urls")?,
        variants: row.try_get("variants")?,
        cloudflare_metadata: row.try_get("cloudflare_metadata")?,
        details_at: row.try_get("details_at")?,
    })
}

fn read_uuid(row: &SqliteRow) -> Result<Uuid, Failure> {
    parse_uuid(row.try_get("id")?)
}

fn parse_uuid(text: String) -> Result<Uuid, Failure> {
    Uuid::parse_str(&text).map_err(|_| {
        StoreError::Undecodable {
            table: "cloudflare_images",
            column: "id",
            id: text,
            reason: "must be a UUID".to_owned(),
        }
        .into()
    })
}

fn read_time(
    row: &SqliteRow,
    column: &'static str,
    id: Uuid,
) -> Result<Option<Timestamp>, Failure> {
    parse_time(row.try_get(column)?, column, id)
}

/// SQLite has no type for times. We write RFC 3339; an app may have written what SQLite's own `datetime()` gives, UTC without
/// saying so.
fn parse_time(
    text: Option<String>,
    column: &'static str,
    id: Uuid,
) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = text else {
        return Ok(None);
    };
    let time = Timestamp::parse_rfc3339(&text)
        .or_else(|_| Timestamp::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
        .map_err(|error| undecodable(column, id, error.to_string()))?;
    Ok(Some(time))
}

/// Whether an error would befall any other transaction too (SQLite's documentation, "Result and Error Codes"). All others may be
/// about a row or a value of one: a constraint, an app's trigger, a BLOB where JSON is made of a row.
pub(super) fn is_everybodys(error: &(dyn DatabaseError + 'static)) -> bool {
    const CODES: [u32; 9] = [
        5,  // BUSY: another process writes
        6,  // LOCKED
        7,  // NOMEM
        8,  // READONLY
        10, // IOERR
        13, // FULL
        14, // CANTOPEN
        15, // PROTOCOL: of locking
        26, // NOTADB
    ];
    primary_code(error).is_some_and(|code| CODES.contains(&code))
}

/// Whether another process has locked the file.
fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if primary_code(&**error) == Some(5))
}

fn primary_code(error: &(dyn DatabaseError + 'static)) -> Option<u32> {
    let code = error.try_downcast_ref::<SqliteError>()?.code()?;
    // The lowest byte of an extended code is its primary code.
    Some(code.parse::<u32>().ok()? & 0xff)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::{Connection, SqliteConnection};

    use super::checkpoints::NOTIFICATIONS;
    use super::*;
    use crate::domain::json::Json;
    use crate::domain::notification::{Content, Notification, Recorded};
    use crate::store::{Inbox, Schema};

    async fn open(folder: &Path) -> Sqlite {
        let settings = serde_json::json!({
            "url": "sqlite://unused", "max_connections": 1, "writers": 1, "batch_limit": 1, "queue_limit": 1, "acquire_timeout_secs": 1, "timeout_secs": 10, "migrate_on_start": true
        });
        let settings = serde_json::from_value(settings).expect("they are right");
        Sqlite::open(&folder.join("images.db"), &settings, UnknownImages::Reject)
            .await
            .expect("it opens")
    }

    fn test_message(payload: Json) -> Arc<Notification> {
        Arc::new(Notification {
            content: Content::TestMessage,
            payload,
            received_at: Timestamp::from_unix_seconds(0).expect("a time"),
        })
    }

    #[tokio::test]
    async fn what_is_committed_survives_a_power_cut_and_a_lock_is_waited_for() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let database = open(folder.path()).await;

        for (pragma, expected) in [
            ("PRAGMA journal_mode", "wal"),
            ("PRAGMA synchronous", "2"), // FULL
            ("PRAGMA foreign_keys", "1"),
            ("PRAGMA busy_timeout", "9000"),
        ] {
            let row = sqlx::query(pragma)
                .fetch_one(&database.writer)
                .await
                .expect("a value");
            let value = row
                .try_get::<String, _>(0)
                .or_else(|_| row.try_get::<i64, _>(0).map(|number| number.to_string()));

            assert_eq!(value.expect("text or a number"), expected, "{pragma}");
        }
    }

    #[tokio::test]
    async fn a_file_that_another_process_prepares_is_waited_for() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = folder.path().join("images.db");
        let options = SqliteConnectOptions::new().filename(file);
        let mut other = SqliteConnection::connect_with(&options.create_if_missing(true))
            .await
            .expect("a file without WAL");
        let writing = other
            .begin_with("BEGIN IMMEDIATE")
            .await
            .expect("a transaction");

        let opening = tokio::spawn(async move { (open(folder.path()).await, folder) });
        tokio::time::sleep(10 * OPEN_RETRY).await;
        assert!(!opening.is_finished());
        writing.rollback().await.expect("it ends");

        opening.await.expect("it opens");
    }

    #[tokio::test]
    async fn after_a_full_disk_the_writer_is_as_good_as_new() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let database = open(folder.path()).await;
        database.migrate().await.expect("it migrates");
        let long = Json::from_canonical(format!("\"{}\"", "x".repeat(100_000)));
        // The limit belongs to the connection, and so goes with it.
        sqlx::query("PRAGMA max_page_count = 1")
            .execute(&database.writer)
            .await
            .expect("no more pages");

        let full = database
            .record(&[test_message(long.clone())])
            .await
            .expect_err("there is no room");
        let recorded = database
            .record(&[test_message(long)])
            .await
            .expect("there is room again");

        assert!(matches!(full, StoreError::Database { .. }), "{full:?}");
        assert_eq!(recorded, [Recorded::TestMessage]);
    }

    #[tokio::test]
    async fn what_is_committed_moves_into_the_file_without_the_writer() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let database = open(folder.path()).await;
        database.migrate().await.expect("it migrates");
        let batch = vec![test_message(Json::from_canonical("{}".to_owned())); NOTIFICATIONS / 2];

        for _ in 0..2 {
            database.record(&batch).await.expect("it is recorded");
        }

        let logs_in_the_file = async || {
            // Without the log ahead of it.
            let copy = folder.path().join("copy.db");
            std::fs::copy(folder.path().join("images.db"), &copy).expect("it is copied");
            let options = SqliteConnectOptions::new().filename(copy).immutable(true);
            let mut copy = SqliteConnection::connect_with(&options).await?;
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM cloudflare_image_logs")
                .fetch_one(&mut copy)
                .await
        };
        let moved = async {
            // A copy that is taken in the midst of a checkpoint may make no sense.
            while !logs_in_the_file().await.is_ok_and(|logs| logs > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let moved = tokio::time::timeout(Duration::from_secs(30), moved).await;
        moved.expect("nobody writes, and yet they are in the file");

        database.close().await;
    }

    #[tokio::test]
    async fn there_is_one_writer() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let database = open(folder.path()).await;

        let _held = database.writer.acquire().await.expect("a connection");

        assert!(database.writer.try_acquire().is_none());
        assert_eq!(database.writer.options().get_max_connections(), 1);
    }
}
