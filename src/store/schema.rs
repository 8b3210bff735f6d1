//! The schema: running migrations, and checking whether they have run.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;

use super::error::StoreError;

/// The table that records applied migrations. Its name differs from sqlx's default, because other programs with sqlx may share
/// the database.
pub(super) const MIGRATIONS_TABLE: &str = "cloudflare_images_webhook_migrations";

/// The longest time for all migrations, including the wait for another process that runs them. Excludes the build of an adopted
/// table's index.
pub(super) const MIGRATION_DEADLINE: Duration = Duration::from_mins(15);

/// The schema: runs migrations, and checks whether the database is ready.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Runs the pending migrations. Several processes may call this at once: each returns when all migrations have run.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Returns the version numbers of the pending migrations. Fails if the database cannot be reached.
    async fn pending(&self) -> Result<Vec<i64>, StoreError>;

    /// Checks whether the database can be written, and fails if not. Changes no data.
    async fn check_writable(&self) -> Result<(), StoreError>;

    /// Inserts an entry into the audit log and rolls it back. Fails if the database refuses or suppresses the entry, for example
    /// because of a trigger. Every webhook would then fail too.
    async fn try_audit_log(&self) -> Result<(), StoreError>;
}

/// Sets the options of a backend's migrator.
pub(super) fn configure_migrator(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // During a rolling upgrade, a newer release may have run migrations that this one does not know. A migration
    // only adds to the schema, so this release can use the newer schema.
    migrator.set_ignore_missing(true);
    migrator
}

/// Returns the version numbers of the migrations that are not in `applied`.
pub(super) fn pending_migrations(migrator: &Migrator, applied: &[i64]) -> Vec<i64> {
    let versions = migrator.iter().map(|migration| migration.version);
    versions
        .filter(|version| !applied.contains(version))
        .collect()
}
