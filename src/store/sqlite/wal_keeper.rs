//! A connection that stays open and idle, so the write-ahead log (WAL) exists as long as the session.
//!
//! SQLite deletes the WAL when the last connection closes, and an error of a statement closes its connection. Without the keeper,
//! the next connection would create another WAL, and the check of the files would take it for the WAL of another program.

use std::sync::{Mutex, PoisonError};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

/// The open connection. It is used again only to copy a deleted WAL.
pub(super) struct WalKeeper(Mutex<Option<SqliteConnection>>);

impl WalKeeper {
    /// Opens the connection and the WAL.
    pub(super) async fn open(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = SqliteConnection::connect_with(options).await?;
        // SQLite opens the WAL with the first statement that reads.
        sqlx::query("SELECT count(*) FROM sqlite_schema")
            .execute(&mut connection)
            .await?;
        Ok(Self(Mutex::new(Some(connection))))
    }

    /// Copies every page of the WAL into the file, and waits for readers (FULL). Works also after the WAL was deleted, because the
    /// connection has it open. Returns false if another program kept a page from being copied.
    pub(super) async fn checkpoint(&self) -> Result<bool, sqlx::Error> {
        let Some(mut connection) = self.take() else {
            return Ok(false);
        };
        let copied = sqlx::query_as("PRAGMA wal_checkpoint(FULL)")
            .fetch_one(&mut connection)
            .await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        let (busy, _pages, _copied): (i64, i64, i64) = copied?;
        Ok(busy == 0)
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
