//! The schema, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Executor;

use super::adoption::applied_migrations;
use super::columns::Backend;
use super::schema_statements::{check_writable, migrate, migrator};
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::schema::{Schema, pending_migrations};
use crate::store::session::{TransactionMode, check_written};

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

    async fn try_audit_log(&self) -> Result<(), StoreError> {
        let action = "trying the audit log";
        self.transaction(action, TransactionMode::Durable, async |tx| {
            tx.execute("SAVEPOINT before_the_entry").await?;
            // The entry of a test message has no image either.
            let inserted = sqlx::query(
                "-- schema_try_audit_log
                 INSERT INTO cloudflare_image_logs (event_type, message) VALUES ('webhook_test', 'try at the start')",
            )
            .execute(&mut *tx)
            .await?;
            tx.execute("ROLLBACK TO SAVEPOINT before_the_entry").await?;
            check_written("cloudflare_image_logs", 1, inserted.rows_affected())?;
            Ok(((), Wakeups::default()))
        })
        .await
    }
}
