//! SQLite: one writer, a few readers, and the traits on them.

mod catalog;
mod checkpoints;
mod deliveries;
mod file;
mod inbox;
mod outbox;
mod rejection_catalog;
mod rejections;
mod retention;
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
use tokio::time::Instant;
use uuid::Uuid;

use self::checkpoints::Checkpoints;
use self::file::OpenedFile;
use super::recording::Recording;
use super::row::{StateColumns, undecodable};
use super::{Closing, Failure, Place, Settings, StoreError, within};
use crate::domain::timestamp::Timestamp;

/// Readers see the last commit and never wait for the writer; few are needed, since only people and probes read.
const MAX_READERS: u32 = 4;

/// How much of the file each connection keeps in memory: in KiB, when it is negative.
const CACHE_KIB: &str = "-8192";

/// To how many bytes the log's file is cut when the log begins anew.
const LOG_BYTES: i64 = checkpoints::LONG_LOG_PAGES * 4096;

/// How long to wait before a file that another process has locked is opened again.
const OPEN_RETRY: Duration = Duration::from_millis(20);

/// A SQLite database.
pub(super) struct Sqlite {
    /// The only connection that writes: SQLite has one writer at a time, and a queue of our own is fairer than its lock.
    writer: SqlitePool,
    readers: SqlitePool,
    checkpoints: Checkpoints,
    file: OpenedFile,
    place: Place,
    deadline: Duration,
    recording: Recording,
}

impl Sqlite {
    /// Opens the file, and makes it and its folder when they are missing.
    pub(super) async fn open(
        path: &Path,
        settings: &Settings,
        recording: Recording,
    ) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
                folder: folder.to_owned(),
                source,
            })?;
        }
        let place: Place = path.display().to_string().into();
        if let Some(encoding) = file::other_encoding(path) {
            return Err(StoreError::Encoding { place, encoding });
        }
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        // Another process may write too, an app or our own command line. It is waited for a little less long than the operation's
        // deadline, so that the error names the lock.
        let lock_timeout = deadline.mul_f64(0.9);
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
            .pragma(
                "wal_autocheckpoint",
                checkpoints::LONG_LOG_PAGES.to_string(),
            )
            .pragma("journal_size_limit", LOG_BYTES.to_string())
            .busy_timeout(lock_timeout);

        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(acquire_timeout)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let opening = async {
            let give_up = Instant::now() + lock_timeout;
            loop {
                match pool(1).connect_with(options.clone()).await {
                    // Another process that switches the new file to WAL is not waited for: SQLite sees a deadlock there.
                    Err(error) if is_busy(&error) && Instant::now() < give_up => {
                        tokio::time::sleep(OPEN_RETRY).await;
                    }
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
            file: OpenedFile::at(path),
            place,
            deadline,
            recording,
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
        rest: None,
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
mod tests;
