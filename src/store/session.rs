//! The session parts that both backends share: deadlines, guarded connections and transaction modes.
//!
//! A session is an open database of one backend. It has three methods: `read`, `write` (each statement commits itself) and
//! `transaction`. All three apply the deadline, name the action in errors, guard the connection, and check SQLite's files.
//! `transaction` also commits, and wakes workers after the commit. Every operation except migrations and checkpoints uses one of the
//! three, so no operation can forget these steps.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::time::Instant;

use super::error::{DatabaseLabel, ErrorClass, StoreError};
use super::server_error::without_line;

/// The connection and the durability of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionMode {
    /// As [`Durable`](Self::Durable), for batches of notifications. Postgres uses a cached connection.
    Recording,
    /// Waits for the disk at the commit, so a power failure loses nothing.
    Durable,
    /// Commits without waiting for the disk. For work that is repeated if a power failure loses it.
    WithoutFsync,
}

/// The error of an operation. [`OperationRunner::run`] adds the action, and returns a [`StoreError`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum OperationError {
    Database(#[from] sqlx::Error),
    Store(#[from] StoreError),
}

/// Fails if a statement wrote fewer rows than it was given. A trigger or a row-level security policy then suppressed the others.
pub(super) fn check_written(
    table: &'static str,
    given: usize,
    written: u64,
) -> Result<(), OperationError> {
    if written < given as u64 {
        return Err(rows_suppressed(table));
    }
    Ok(())
}

/// Returns the error if it is a suppression, and fails with any other error. For rows that must not fail the transaction.
pub(super) fn catch_suppression(
    result: Result<(), OperationError>,
) -> Result<Option<StoreError>, OperationError> {
    match result {
        Ok(()) => Ok(None),
        Err(OperationError::Store(error)) if error.is_suppression() => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Returns the error of a statement that wrote fewer rows than it was given.
pub(super) fn rows_suppressed(table: &'static str) -> OperationError {
    StoreError::RowsSuppressed { table }.into()
}

/// The runner of a database's operations. It applies the deadline, and describes errors.
#[derive(Debug, Clone)]
pub(super) struct OperationRunner {
    pub(super) database: DatabaseLabel,
    /// The longest time that one operation may take.
    pub(super) deadline: Duration,
    /// The classification of errors that the database itself reports.
    pub(super) classify: fn(&(dyn DatabaseError + 'static)) -> ErrorClass,
}

impl OperationRunner {
    /// Runs an operation under the deadline. The error names the action, such as `recording notifications`.
    pub(super) async fn run<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.deadline, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(OperationError::Database(source))) => Err(self.database_error(action, source)),
            Ok(Err(OperationError::Store(error))) => Err(error),
            Err(_) => Err(self.timeout_error(action)),
        }
    }

    /// Returns the error of a failed action, with its class.
    pub(super) fn database_error(&self, action: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::Database {
            database: self.database.clone(),
            action,
            class: ErrorClass::of(&source, self.classify),
            source: without_line(source),
        }
    }

    fn timeout_error(&self, action: &'static str) -> StoreError {
        StoreError::OperationTimeout {
            database: self.database.clone(),
            action,
            deadline: self.deadline,
        }
    }
}

/// A connection that is closed when dropped, unless it was released to its pool.
///
/// After an error or a timeout the connection's state is unknown. SQLite may have rolled back while sqlx assumes that the
/// transaction is open, or the server may no longer respond.
#[derive(Debug)]
pub(super) struct GuardedConnection<DB: Database> {
    pub(super) connection: PoolConnection<DB>,
    pub(super) acquired_at: Instant,
    is_clean: bool,
}

impl<DB: Database> GuardedConnection<DB> {
    pub(super) async fn acquire(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            acquired_at: Instant::now(),
            is_clean: false,
        })
    }

    /// Returns the connection to its pool. Call it after the work succeeded.
    pub(super) fn release(mut self) {
        self.is_clean = true;
    }
}

impl<DB: Database> Drop for GuardedConnection<DB> {
    fn drop(&mut self) {
        if !self.is_clean {
            self.connection.close_on_drop();
        }
    }
}
