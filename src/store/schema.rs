//! Migrations: bringing the tables up to date, and telling whether they are.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;

use super::error::StoreError;

/// The table that records migrations. It has a name of its own, since other programs that use sqlx may share the database.
pub(super) const MIGRATIONS_TABLE: &str = "cloudflare_images_webhook_migrations";

/// How long a migration may take, including the wait for another process that migrates.
pub(super) const MIGRATION_DEADLINE: Duration = Duration::from_mins(15);

/// Brings the tables up to date, and tells whether they are.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Runs the pending migrations. Any number of processes may call this at once: each returns when all migrations have run.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Returns the numbers of the pending migrations. Fails when the database cannot be reached.
    async fn pending(&self) -> Result<Vec<i64>, StoreError>;

    /// Fails when the database cannot be written, as far as that can be told without writing.
    async fn check_writable(&self) -> Result<(), StoreError>;
}

/// Prepares a backend's migrations.
pub(super) fn configure_migrator(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // A newer release may have migrated already: replicas are replaced one by one, and migrations only add.
    migrator.set_ignore_missing(true);
    migrator
}

/// Returns the migrations that have not run. Those of a newer release are ignored.
pub(super) fn pending_migrations(migrator: &Migrator, applied: &[i64]) -> Vec<i64> {
    let versions = migrator.iter().map(|migration| migration.version);
    versions
        .filter(|version| !applied.contains(version))
        .collect()
}
