//! The migrations of SQLite, and the check whether it is writable.

use sqlx::Connection;
use sqlx::migrate::Migrator;

use super::session::{BEGIN, Sqlite};
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::schema::{MIGRATION_DEADLINE, configure_migrator};
use crate::store::session::{GuardedConnection, TransactionMode};

/// The statement that selects whether the table `$1` exists.
pub(super) const SCHEMA_EXISTS: &str = "-- schema_exists
     SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)";

pub(super) fn migrator() -> Migrator {
    configure_migrator(sqlx::migrate!("migrations/sqlite"))
}

/// Runs the pending migrations.
pub(super) async fn migrate(backend: &Sqlite) -> Result<(), StoreError> {
    let migrating = async {
        // SQLite has no advisory locks, so the write lock serializes processes that migrate. In this transaction, the migrator's
        // own transactions are savepoints.
        let mut guard = GuardedConnection::acquire(&backend.writer).await?;
        let mut tx = guard.connection.begin_with(BEGIN).await?;
        // `run` does the same after it has acquired a connection. With `run`, this future would not be `Send`.
        migrator().run_direct(None, &mut *tx, false).await?;
        tx.commit().await?;
        guard.release();
        Ok(())
    };
    match tokio::time::timeout(MIGRATION_DEADLINE, migrating).await {
        Ok(migrated) => migrated.map_err(StoreError::Migration),
        Err(_) => Err(StoreError::MigrationTimeout {
            database: backend.runner.database.clone(),
            deadline: MIGRATION_DEADLINE,
        }),
    }
}

/// Takes and releases the write lock. Fails if that is not possible.
pub(super) async fn check_writable(backend: &Sqlite) -> Result<(), StoreError> {
    let action = "checking whether it is writable";
    let locking = backend.transaction(action, TransactionMode::Durable, async |_| {
        Ok(((), Wakeups::default()))
    });
    locking.await
}
