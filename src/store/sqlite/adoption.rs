//! The check of existing tables before the file is opened for writing.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::shared::adoption::adoptable_tables;
use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::session::OperationError;

/// Fails if the file has a table that cannot be adopted. Opens the file only for reading, because opening it for writing changes
/// its journal mode. If the file cannot be read, opening it for writing fails too, and says why.
pub(in crate::store) async fn check_tables(path: &Path) -> Result<(), StoreError> {
    let database: DatabaseLabel = path.display().to_string().into();
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(Duration::ZERO);
    let Ok(mut connection) = SqliteConnection::connect_with(&options).await else {
        return Ok(());
    };
    let checked = adoptable_tables(&mut connection, &database).await;
    // SQLite closes the file also after an error.
    let _closed = connection.close().await;
    match checked {
        Err(OperationError::Store(error)) => Err(error),
        Ok(_) | Err(OperationError::Database(_)) => Ok(()),
    }
}
