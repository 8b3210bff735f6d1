//! sqlx's migrator, in transactions that this service begins.
//!
//! The migrator gives names to its prepared statements. So a transaction closes them before it commits: behind a pooler, the next
//! client may get the session.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres as Database, Transaction};

use super::connection::Connection;
use crate::store::error::StoreError;
use crate::store::schema::{MIGRATION_DEADLINE, configure_migrator};
use crate::store::session::OperationError;

pub(super) fn migrator() -> Migrator {
    let mut migrator = configure_migrator(sqlx::migrate!("migrations/postgres"));
    // Its lock belongs to the session, which a pooler keeps when this process dies.
    migrator.set_locking(false);
    migrator
}

/// Returns the statements that begin a transaction of the migrations. If this process dies, the server ends a statement at the
/// deadline. The timeouts of the server's role do not apply.
pub(super) fn begin_sql(connection: &Connection) -> String {
    format!(
        "BEGIN; {} SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = 0;",
        connection.migration_settings(),
        MIGRATION_DEADLINE.as_millis()
    )
}

/// Begins a transaction for the migrator.
pub(super) async fn begin(
    connection: &mut Connection,
) -> Result<Transaction<'_, Database>, sqlx::Error> {
    let begin = begin_sql(connection);
    let connection = connection.migrator_connection();
    connection.begin_with(AssertSqlSafe(begin)).await
}

/// Runs work of the migrations in a transaction. If the work fails, drop the connection.
pub(super) async fn transact<T>(
    connection: &mut Connection,
    work: impl AsyncFnOnce(&mut Connection) -> Result<T, OperationError>,
) -> Result<T, OperationError> {
    let begin = begin_sql(connection);
    connection.transact(begin, work).await
}

/// Begins a savepoint for the migrator in a transaction that is open. Its commit commits the whole transaction.
pub(super) async fn begin_inside(
    tx: &mut Connection,
) -> Result<Transaction<'_, Database>, sqlx::Error> {
    let connection = tx.migrator_connection();
    connection.begin_with("SAVEPOINT before_migrations").await
}

/// Commits a transaction of the migrator.
pub(super) async fn commit(mut tx: Transaction<'_, Database>) -> Result<(), sqlx::Error> {
    tx.clear_cached_statements().await?;
    tx.commit().await
}

/// Runs the pending migrations until this one, or all.
pub(super) async fn run_until(
    tx: &mut PgConnection,
    last: Option<i64>,
) -> Result<(), OperationError> {
    let migrator = migrator();
    let running = migrator.run_direct(last, tx, false);
    Ok(running.await.map_err(StoreError::Migration)?)
}

/// Returns the server's code (SQLSTATE) for the error of a statement, also of one in a migration.
pub(super) fn code_of(error: &OperationError) -> Option<&str> {
    let (OperationError::Database(error)
    | OperationError::Store(StoreError::Migration(
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
    ))) = error
    else {
        return None;
    };
    let error = error.as_database_error()?;
    Some(error.try_downcast_ref::<PgDatabaseError>()?.code())
}
