//! The schema, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::columns::Backend;
use super::schema_statements::{SCHEMA_EXISTS, check_writable, migrate, migrator};
use crate::store::error::StoreError;
use crate::store::schema::{MIGRATIONS_TABLE, Schema, pending_migrations};

#[async_trait]
impl Schema for Backend {
    async fn migrate(&self) -> Result<(), StoreError> {
        migrate(self).await
    }

    async fn pending(&self) -> Result<Vec<i64>, StoreError> {
        let reading = self.read("reading the applied migrations", async |connection| {
            let exists: bool = sqlx::query_scalar(SCHEMA_EXISTS)
                .bind(MIGRATIONS_TABLE)
                .fetch_one(&mut *connection)
                .await?;
            if !exists {
                return Ok(Vec::new());
            }
            Ok(sqlx::query_scalar(
                "-- schema_applied
                 SELECT version FROM cloudflare_images_webhook_migrations WHERE success",
            )
            .fetch_all(connection)
            .await?)
        });
        let applied: Vec<i64> = reading.await?;
        Ok(pending_migrations(&migrator(), &applied))
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        check_writable(self).await
    }
}
