//! The migrations of Postgres, and the check whether it is writable.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};

use super::adoption::Adoption;
use super::session::Postgres;
use crate::domain::notification::UnknownImages;
use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::schema::{MIGRATION_DEADLINE, MIGRATIONS_TABLE, configure_migrator};
use crate::store::session::OperationError;

pub(super) fn migrator() -> Migrator {
    configure_migrator(sqlx::migrate!("migrations/postgres"))
}

/// The time between two attempts to get the lock of the migrations.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the pending migrations.
pub(super) async fn migrate(backend: &Postgres) -> Result<(), StoreError> {
    let mut connection = connect(backend).await?;
    match run(&mut connection, &backend.runner.database).await {
        Ok(()) => {
            // The migrations are committed, so a lost connection changes nothing.
            let _closed = connection.close().await;
            Ok(())
        }
        Err(OperationError::Store(error)) => Err(error),
        Err(OperationError::Database(source)) => Err(backend
            .runner
            .database_error("running the migrations", source)),
    }
}

/// Opens a separate connection, because the timeouts of the main pool are too short for a large table. The timeouts of the
/// server's role do not apply either. If this process dies, the server ends a statement at the deadline.
async fn connect(backend: &Postgres) -> Result<PgConnection, StoreError> {
    let options = backend.options.clone().options([
        (
            "statement_timeout",
            MIGRATION_DEADLINE.as_millis().to_string(),
        ),
        ("lock_timeout", "0".to_owned()),
    ]);
    // The pool tries again while the server does not answer.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(backend.acquire_timeout)
        .connect_lazy_with(options);
    match pool.acquire().await {
        Ok(connection) => Ok(connection.detach()),
        Err(source) => {
            let error = backend
                .runner
                .database_error("connecting for the migrations", source);
            Err(backend.diagnose(error).await)
        }
    }
}

async fn run(
    connection: &mut PgConnection,
    database: &DatabaseLabel,
) -> Result<(), OperationError> {
    let adoption = within_deadline(database, async {
        lock(connection).await?;
        Adoption::begin(connection, database, migrator()).await
    })
    .await?;
    adoption.build_index(connection).await?;
    within_deadline(database, async {
        adoption.record(connection).await?;
        let migrator = migrator();
        let running = migrator.run_direct(None, connection, false);
        Ok(running.await.map_err(StoreError::Migration)?)
    })
    .await
}

/// Runs a part of the migrations under the deadline.
async fn within_deadline<T>(
    database: &DatabaseLabel,
    part: impl Future<Output = Result<T, OperationError>>,
) -> Result<T, OperationError> {
    let ended = tokio::time::timeout(MIGRATION_DEADLINE, part).await;
    ended.unwrap_or_else(|_| {
        Err(StoreError::MigrationTimeout {
            database: database.clone(),
            deadline: MIGRATION_DEADLINE,
        }
        .into())
    })
}

/// Waits until no other process migrates. The server frees the lock when the connection closes.
///
/// The migrator has a lock of its own. But a process that waits for that lock has an open transaction, and `CREATE INDEX
/// CONCURRENTLY` in another process would wait for it: a deadlock. Here, no transaction is open between two attempts.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut is_first = true;
    loop {
        let is_locked: bool = sqlx::query_scalar(
            "-- schema_lock
             SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
        )
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await?;
        if is_locked {
            return Ok(());
        }
        if is_first {
            tracing::info!("waiting for another process that runs the migrations");
        }
        is_first = false;
        tokio::time::sleep(LOCK_POLL_INTERVAL).await;
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
                     ('SELECT', 'cloudflare_images_webhook_adoptions'),
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
                     AND NOT has_sequence_privilege(pg_get_serial_sequence(attrelid::regclass::text, attname), 'USAGE, UPDATE')
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
