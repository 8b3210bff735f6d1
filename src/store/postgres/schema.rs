//! The migrations of Postgres, and the check whether it is writable.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;

use super::session::Postgres;
use crate::store::error::StoreError;
use crate::store::schema::{MIGRATION_DEADLINE, configure_migrator};

/// The statement that selects whether the table `$1` exists.
pub(super) const SCHEMA_EXISTS: &str = "-- schema_exists
     SELECT to_regclass($1) IS NOT NULL";

pub(super) fn migrator() -> Migrator {
    configure_migrator(sqlx::migrate!("migrations/postgres"))
}

/// Runs the pending migrations.
pub(super) async fn migrate(backend: &Postgres) -> Result<(), StoreError> {
    // Migrations use a separate pool, because the statement timeout of the main pool is too short for a large table.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(backend.acquire_timeout)
        .connect_lazy_with(backend.options.clone());

    // The migrator takes an advisory lock, so replicas that start at the same time wait for each other.
    let migrated = tokio::time::timeout(MIGRATION_DEADLINE, migrator().run(&pool)).await;
    pool.close().await;
    match migrated {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MigrateError::Execute(source))) => {
            let error = backend
                .runner
                .database_error("connecting for the migrations", source);
            Err(backend.diagnose(error).await)
        }
        Ok(Err(source)) => Err(StoreError::Migration(source)),
        Err(_) => Err(StoreError::MigrationTimeout {
            database: backend.runner.database.clone(),
            deadline: MIGRATION_DEADLINE,
        }),
    }
}

/// Fails if the server is read-only.
pub(super) async fn check_writable(backend: &Postgres) -> Result<(), StoreError> {
    let reading = backend.read("checking whether it is writable", async |connection| {
        Ok(sqlx::query_scalar(
            "-- schema_check_writable
             SHOW transaction_read_only",
        )
        .fetch_one(connection)
        .await?)
    });
    let read_only: String = reading.await?;
    if read_only == "off" {
        Ok(())
    } else {
        Err(StoreError::ReadOnly {
            database: backend.runner.database.clone(),
        })
    }
}
