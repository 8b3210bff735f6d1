//! The schema, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::adoption::applied_migrations;
use super::columns::Backend;
use super::schema_statements::{check_writable, migrate, migrator};
use crate::store::error::StoreError;
use crate::store::schema::{Schema, pending_migrations};

#[async_trait]
impl Schema for Backend {
    async fn migrate(&self) -> Result<(), StoreError> {
        migrate(self).await
    }

    async fn pending(&self) -> Result<Vec<i64>, StoreError> {
        let reading = self.read("reading the applied migrations", async |connection| {
            applied_migrations(connection).await
        });
        let applied: Vec<i64> = reading.await?;
        Ok(pending_migrations(&migrator(), &applied))
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        check_writable(self).await
    }
}
