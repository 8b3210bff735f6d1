//! Migrating SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::migrate::Migrator;

use super::Sqlite;
use crate::store::{
    Lent, MIGRATION_DEADLINE, MIGRATIONS_TABLE, Schema, StoreError, pending, within,
};

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/sqlite");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // A newer release may have migrated already; migrations only add.
    migrator.set_ignore_missing(true);
    migrator
}

#[async_trait]
impl Schema for Sqlite {
    async fn migrate(&self) -> Result<(), StoreError> {
        let migrating = async {
            // SQLite has no advisory lock for the migrator to take. The write lock does as well: whoever comes second waits for
            // it, and finds nothing left to do. Within it, the migrator's own transactions are savepoints.
            let mut lent = Lent::from(&self.writer).await?;
            let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
            // What `run` does on a connection that it has acquired; through `run` itself, this future would not be Send.
            migrator().run_direct(None, &mut *tx, false).await?;
            tx.commit().await?;
            lent.give_back();
            Ok(())
        };
        match tokio::time::timeout(MIGRATION_DEADLINE, migrating).await {
            Ok(migrated) => migrated.map_err(StoreError::Migration),
            Err(_) => Err(StoreError::TookTooLong {
                place: self.place.clone(),
                action: "migrating",
                deadline: MIGRATION_DEADLINE,
            }),
        }
    }

    async fn pending(&self) -> Result<Vec<i64>, StoreError> {
        let applied: Vec<i64> = within(
            &self.place,
            self.deadline,
            "looking up the migrations",
            async {
                let is_there: bool = sqlx::query_scalar(
                    "-- schema_is_there
                 SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1)",
                )
                .bind(MIGRATIONS_TABLE)
                .fetch_one(&self.readers)
                .await?;
                if !is_there {
                    return Ok(Vec::new());
                }
                Ok(sqlx::query_scalar(
                    "-- schema_applied
                 SELECT version FROM cloudflare_images_webhook_migrations WHERE success",
                )
                .fetch_all(&self.readers)
                .await?)
            },
        )
        .await?;

        Ok(pending(&migrator(), &applied))
    }

    /// Takes the write lock, and lets it go.
    async fn check_writable(&self) -> Result<(), StoreError> {
        self.file.check(&self.place)?;
        within(
            &self.place,
            self.deadline,
            "asking whether it can be written",
            async {
                let mut lent = Lent::from(&self.writer).await?;
                let tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
                tx.rollback().await?;
                lent.give_back();
                Ok(())
            },
        )
        .await
    }
}
