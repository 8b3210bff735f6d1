//! A connection that stays open and idle, so the write-ahead log (WAL) exists as long as the session.
//!
//! SQLite deletes the WAL when the last connection closes, and an error of a statement closes its connection. Without the keeper,
//! the next connection would create another WAL, and the check of the files would take it for the WAL of another program.

use std::sync::{Mutex, PoisonError};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::telemetry::chain;

/// The statement that opens the WAL of a connection. SQLite opens it with the first statement that reads.
pub(super) const OPEN_WAL: &str = "SELECT count(*) FROM sqlite_schema";

/// The statement that copies the pages of the WAL into the file, and waits for readers.
pub(super) const COPY_WAL: &str = "PRAGMA wal_checkpoint(FULL)";

/// The statement that limits the wait for readers, in milliseconds. While the service runs, a copy that fails is repeated. At the
/// stop, there must be time to save the WAL instead.
const COPY_LOCK_TIMEOUT: &str = "PRAGMA busy_timeout = 500";

/// The open connection. It is used again only to copy a deleted WAL.
pub(super) struct WalKeeper(Mutex<Option<SqliteConnection>>);

impl WalKeeper {
    /// Opens the connection and the WAL.
    pub(super) async fn open(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = SqliteConnection::connect_with(options).await?;
        sqlx::query(OPEN_WAL).execute(&mut connection).await?;
        sqlx::query(COPY_LOCK_TIMEOUT)
            .execute(&mut connection)
            .await?;
        Ok(Self(Mutex::new(Some(connection))))
    }

    /// Copies every page of the WAL into the file. Works also after the WAL was deleted, because the
    /// connection has it open. Returns the reason if a page was not copied.
    pub(super) async fn copy_deleted_wal(&self) -> Result<(), String> {
        let Some(mut connection) = self.take() else {
            return Ok(());
        };
        let copied: Result<(i64, i64, i64), sqlx::Error> =
            sqlx::query_as(COPY_WAL).fetch_one(&mut connection).await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        match copied {
            Ok((0, pages, copied)) if pages == copied => Ok(()),
            // It reads an old state of the database, or writes.
            Ok(_) => Err("another program uses the database".to_owned()),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.take() {
            // SQLite closes the file also after an error.
            let _closed = connection.close().await;
        }
    }

    fn take(&self) -> Option<SqliteConnection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
