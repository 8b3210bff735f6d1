//! The migrations of Postgres, and the check whether it is writable.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;

use super::session::Postgres;
use crate::domain::notification::UnknownImages;
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

/// Fails if the server is read-only, or if the user lacks a privilege that webhooks and the relay need. Tables that do not exist yet
/// lack none.
///
/// Reads privileges instead of writing, because even a statement that changes no row runs an app's triggers and takes locks.
pub(super) async fn check_writable(backend: &Postgres) -> Result<(), StoreError> {
    let creates_images = matches!(backend.policy.unknown_images, UnknownImages::Create);
    let reading = backend.read("checking whether it is writable", async |connection| {
        Ok(sqlx::query_as(
            "-- schema_check_writable
             SELECT current_setting('transaction_read_only') = 'on', current_user::text, (
                 SELECT concat(privilege, ' ON ', name)
                 FROM (VALUES
                     ('SELECT', 'cloudflare_images'), ('UPDATE', 'cloudflare_images'),
                     (CASE WHEN $1 THEN 'INSERT' ELSE 'SELECT' END, 'cloudflare_images'),
                     ('INSERT', 'cloudflare_image_logs'),
                     ('SELECT', 'webhook_rejections'), ('INSERT', 'webhook_rejections'), ('UPDATE', 'webhook_rejections'),
                     ('SELECT', 'relay_events'), ('INSERT', 'relay_events'),
                     ('SELECT', 'relay_deliveries'), ('INSERT', 'relay_deliveries'), ('UPDATE', 'relay_deliveries'),
                     ('SELECT', 'relay_attempts'), ('INSERT', 'relay_attempts'),
                     ('SELECT', 'relay_endpoints'), ('INSERT', 'relay_endpoints'), ('UPDATE', 'relay_endpoints')
                 ) AS needed (privilege, name)
                 -- The privilege may be granted on single columns. A missing table has the privilege NULL.
                 WHERE NOT has_any_column_privilege(to_regclass(name), privilege)
                 LIMIT 1
             ), (
                 -- An adopted table may have a sequence with privileges of its own, unlike an identity column.
                 SELECT concat('USAGE ON SEQUENCE ', pg_get_serial_sequence(attrelid::regclass::text, attname))
                 FROM pg_attribute
                 WHERE attrelid = to_regclass('cloudflare_image_logs') AND attname = 'id' AND attidentity = ''
                     AND NOT has_sequence_privilege(pg_get_serial_sequence(attrelid::regclass::text, attname), 'USAGE')
             )",
        )
        .bind(creates_images)
        .fetch_one(connection)
        .await?)
    });
    let (is_read_only, user, table_privilege, sequence_privilege): (
        bool,
        String,
        Option<String>,
        Option<String>,
    ) = reading.await?;
    let database = backend.runner.database.clone();
    if is_read_only {
        return Err(StoreError::ReadOnly { database });
    }
    match table_privilege.or(sequence_privilege) {
        Some(privilege) => Err(StoreError::MissingPrivilege {
            database,
            user,
            privilege,
        }),
        None => Ok(()),
    }
}
