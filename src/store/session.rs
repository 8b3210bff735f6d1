//! The parts of a session that both backends share: a deadline, a guarded connection, and how a transaction is committed.
//!
//! Each backend has three methods, and every operation is one of them: `read`, `write` (statements that commit themselves) and
//! `transaction`. Migrations and checkpoints are apart. They own the deadline, the action's name, the guard, SQLite's file check, begin and commit, and the wake-ups
//! that follow a commit. So no operation can forget one of these.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::time::Instant;

use super::error::{DatabaseLabel, ErrorClass, StoreError};

/// How a transaction is begun and committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionMode {
    /// Durable. Postgres uses a connection that the writers keep.
    Recording,
    /// Durable.
    Durable,
    /// Does not wait for the disk: what a power failure loses is done again.
    WithoutFsync,
}

/// Why an operation failed, before its action's name is known.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum OperationError {
    Database(#[from] sqlx::Error),
    Store(#[from] StoreError),
}

/// The limits and the names that the errors of one database have.
#[derive(Debug, Clone)]
pub(super) struct OperationRunner {
    pub(super) database: DatabaseLabel,
    /// How long one operation may take in all.
    pub(super) deadline: Duration,
    /// Classifies the errors that the database itself reports.
    pub(super) classify: fn(&(dyn DatabaseError + 'static)) -> ErrorClass,
}

impl OperationRunner {
    /// Runs an operation under the deadline, and names its action in the error.
    pub(super) async fn run<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.deadline, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(OperationError::Database(source))) => Err(self.database_error(action, source)),
            Ok(Err(OperationError::Store(error))) => Err(error),
            Err(_) => Err(self.timeout_error(action, self.deadline)),
        }
    }

    pub(super) fn database_error(&self, action: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::Database {
            database: self.database.clone(),
            action,
            class: ErrorClass::of(&source, self.classify),
            source,
        }
    }

    pub(super) fn timeout_error(&self, action: &'static str, deadline: Duration) -> StoreError {
        StoreError::OperationTimeout {
            database: self.database.clone(),
            action,
            deadline,
        }
    }
}

/// A connection that returns to its pool only after its work ended well. Any other is closed, and the pool makes a new one.
///
/// After an error or a deadline the connection's state is unknown: SQLite may have rolled back where sqlx assumes that it has
/// not, or the other end of the network may be silent.
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

    /// Returns the connection to its pool, after its work ended well.
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
