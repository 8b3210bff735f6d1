//! Migrating Postgres.

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;

use super::Postgres;
use crate::store::{MIGRATION_DEADLINE, MIGRATIONS_TABLE, Schema, StoreError, pending};

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // A newer release may have migrated already: replicas are replaced one by one, and migrations only add.
    migrator.set_ignore_missing(true);
    migrator
}

#[async_trait]
impl Schema for Postgres {
    async fn migrate(&self) -> Result<(), StoreError> {
        // A connection of its own: the pool's give up after the statement timeout, which is too short for a large table.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.acquire_timeout)
            .connect_lazy_with(self.options.clone());

        // The migrator takes an advisory lock, so that replicas that start at once wait for the first.
        let migrated = tokio::time::timeout(MIGRATION_DEADLINE, migrator().run(&pool)).await;
        pool.close().await;
        match migrated {
            Ok(Ok(())) => Ok(()),
            Ok(Err(MigrateError::Execute(source))) => Err(self
                .explained(StoreError::Database {
                    place: self.place.clone(),
                    action: "connecting to migrate",
                    source,
                })
                .await),
            Ok(Err(source)) => Err(StoreError::Migration(source)),
            Err(_) => Err(StoreError::TookTooLong {
                place: self.place.clone(),
                action: "migrating",
                deadline: MIGRATION_DEADLINE,
            }),
        }
    }

    async fn pending(&self) -> Result<Vec<i64>, StoreError> {
        let applied: Vec<i64> = self
            .within("looking up the migrations", async {
                let is_there: bool = sqlx::query_scalar(
                    "-- schema_is_there
                 SELECT to_regclass($1) IS NOT NULL",
                )
                .bind(MIGRATIONS_TABLE)
                .fetch_one(&self.pool)
                .await?;
                if !is_there {
                    return Ok(Vec::new());
                }
                Ok(sqlx::query_scalar(
                    "-- schema_applied
                 SELECT version FROM cloudflare_images_webhook_migrations WHERE success",
                )
                .fetch_all(&self.pool)
                .await?)
            })
            .await?;

        Ok(pending(&migrator(), &applied))
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        let read_only: String = self
            .within("asking whether it can be written", async {
                Ok(sqlx::query_scalar(
                    "-- schema_check_writable
                     SHOW transaction_read_only",
                )
                .fetch_one(&self.pool)
                .await?)
            })
            .await?;
        if read_only == "off" {
            Ok(())
        } else {
            Err(StoreError::ReadOnly {
                place: self.place.clone(),
            })
        }
    }
}
