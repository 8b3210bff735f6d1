//! The migrations of SQLite, and the check whether it is writable.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::session::{BEGIN, Sqlite};
use super::shared::adoption::{adoptable_tables, record_adoption};
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::schema::{MIGRATION_DEADLINE, configure_migrator};
use crate::store::session::{GuardedConnection, OperationError, TransactionMode};

pub(super) fn migrator() -> Migrator {
    configure_migrator(sqlx::migrate!("migrations/sqlite"))
}

/// Runs the pending migrations. Fails if the file cannot be written, even if none is pending.
pub(super) async fn migrate(backend: &Sqlite) -> Result<(), StoreError> {
    check_writable(backend).await?;
    let connections = backend.connections()?;
    let writer = &connections.writer;
    let database = &backend.runner.database;
    let migrating = async {
        // SQLite has no advisory locks, so the write lock serializes processes that migrate. In this transaction, the migrator's
        // own transactions are savepoints.
        let mut guard = GuardedConnection::acquire(writer).await?;
        let mut tx = guard.connection.begin_with(BEGIN).await?;
        let adopted = adoptable_tables(&mut tx, database).await?;
        // `run` does the same after it has acquired a connection. With `run`, this future would not be `Send`.
        let migrator = migrator();
        let running = migrator.run_direct(None, &mut *tx, false);
        running.await.map_err(StoreError::Migration)?;
        record_adoption(&mut tx, &adopted).await?;
        tx.commit().await?;
        guard.release();
        Ok(())
    };
    match tokio::time::timeout(MIGRATION_DEADLINE, migrating).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(OperationError::Store(error))) => Err(error),
        Ok(Err(OperationError::Database(source))) => Err(backend
            .runner
            .database_error("running the migrations", source)),
        Err(_) => Err(StoreError::MigrationTimeout {
            database: database.clone(),
            deadline: MIGRATION_DEADLINE,
        }),
    }
}

/// Writes the header of the database file, with its present values. Fails if that is not possible.
///
/// Only a statement that writes notices a file without write permission: on such a file, SQLite begins a transaction that can only
/// read. Only a commit notices a full disk. The commit does not wait for the disk, because it changes nothing.
pub(super) async fn check_writable(backend: &Sqlite) -> Result<(), StoreError> {
    let action = "checking whether it is writable";
    let writing = backend.transaction(action, TransactionMode::WithoutFsync, async |connection| {
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *connection)
            .await?;
        let write = format!("PRAGMA user_version = {version}");
        connection.execute(AssertSqlSafe(write)).await?;
        Ok(((), Wakeups::default()))
    });
    writing.await?;
    backend.count_committed(1);
    Ok(())
}
