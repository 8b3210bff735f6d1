//! The migrations of Postgres, and the check whether it is writable.

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::adoption::{Adoption, AuditLogIndex};
use super::connection::Connection;
pub(super) use super::migrator::migrator;
use super::migrator::{begin_inside, begin_sql, code_of, commit, run_until, transact};
use super::session::Postgres;
use super::shared::adoption::applied_migrations;
use crate::domain::notification::UnknownImages;
use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::schema::{MIGRATION_DEADLINE, MIGRATIONS_TABLE, pending_migrations};
use crate::store::session::OperationError;

/// The time between two attempts to get the lock of the migrations.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The maximum number of runs of the migrations. The other process commits each migration alone, so each can cause a conflict.
const MAX_RUNS: u32 = 8;

/// The connections of the migrations. One has the lock and runs the migrations. The other one adopts tables, in short transactions.
const MAX_CONNECTIONS: u32 = 2;

/// Runs the pending migrations.
pub(super) async fn migrate(backend: &Postgres) -> Result<(), StoreError> {
    let pool = pool(backend);
    let migrated = run_beside_others(backend, &pool).await;
    pool.close().await;
    match migrated {
        Ok(()) => Ok(()),
        Err(OperationError::Store(error)) => Err(error),
        Err(OperationError::Database(source)) => {
            let error = backend
                .runner
                .database_error("running the migrations", source);
            Err(backend.diagnose(error).await)
        }
    }
}

/// Creates a pool without the timeouts of the session's pool, which are too short for a large table.
fn pool(backend: &Postgres) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        // The pool tries again while the server does not answer.
        .acquire_timeout(backend.acquire_timeout)
        .test_before_acquire(false)
        .connect_lazy_with(backend.options.clone())
}

/// Runs the migrations. A release from before the lock of the migrations does not wait for it. So both may run the same migration,
/// and the one that commits last fails. It then continues after the other one.
async fn run_beside_others(backend: &Postgres, pool: &PgPool) -> Result<(), OperationError> {
    for _ in 1..MAX_RUNS {
        match run(backend, pool).await {
            Err(error) if is_conflict(&error) => {
                tracing::info!("another process ran the same migration; continuing after it");
            }
            done => return done,
        }
    }
    run(backend, pool).await
}

/// Returns whether another process has created the same row or the same object, or a deadlock with it.
fn is_conflict(error: &OperationError) -> bool {
    // unique_violation, duplicate_table, duplicate_object, deadlock_detected
    code_of(error).is_some_and(|code| ["23505", "42P07", "42710", "40P01"].contains(&code))
}

async fn run(backend: &Postgres, pool: &PgPool) -> Result<(), OperationError> {
    let database = &backend.runner.database;
    let mode = backend.mode().await?;
    let acquire = async || {
        let settings = Arc::clone(&backend.migration_settings);
        Connection::acquire_for_migrations(pool, mode, settings).await
    };
    let mut owner = acquire().await?;
    let work = find_work(&mut owner, database).await?;
    if work == Work::None {
        owner.release();
        return Ok(());
    }
    let locking = async {
        let begin = begin_sql(&owner);
        owner.execute(AssertSqlSafe(begin)).await?;
        lock(&mut owner).await?;
        Adoption::find(&mut owner, database).await
    };
    let adoption = within_deadline(database, locking).await?;
    if !adoption.is_empty() || work == Work::Index {
        let mut connection = acquire().await?;
        within_deadline(database, adoption.alter(&mut connection)).await?;
        adoption.build_index(&mut connection).await?;
        within_deadline(database, adoption.record(&mut connection)).await?;
        connection.release();
    }
    within_deadline(database, async {
        let mut tx = begin_inside(&mut owner).await?;
        run_until(&mut tx, None).await?;
        Ok(commit(tx).await?)
    })
    .await?;
    owner.release();
    Ok(())
}

/// The work that the migrations have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    None,
    /// Replace an invalid index.
    Index,
    /// Run pending migrations.
    Migrations,
}

/// Returns the work that the migrations have. Only reads, so a user without the right to create tables can start the service. Fails
/// if migrations are pending and the user lacks this right.
async fn find_work(
    connection: &mut Connection,
    database: &DatabaseLabel,
) -> Result<Work, OperationError> {
    let applied = transact(connection, async |tx| applied_migrations(tx).await).await?;
    if pending_migrations(&migrator(), &applied).is_empty() {
        check_checksums(connection).await?;
        let is_invalid = AuditLogIndex::is_invalid(connection).await?;
        return Ok(if is_invalid { Work::Index } else { Work::None });
    }
    let reading = transact(connection, async |tx| {
        let reading = sqlx::query_as(
            "-- schema_check_creatable
             SELECT quote_ident(current_user), quote_ident(current_schema()),
                 coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), current_setting('search_path')",
        );
        Ok(reading.fetch_one(tx).await?)
    });
    let (user, schema, may_create, search_path): (String, Option<String>, bool, String) =
        reading.await?;
    if may_create {
        return Ok(Work::Migrations);
    }
    let Some(schema) = schema else {
        let database = database.clone();
        return Err(StoreError::NoSchema {
            database,
            user,
            search_path,
        }
        .into());
    };
    Err(StoreError::MissingPrivilege {
        database: database.clone(),
        user,
        privilege: format!("USAGE, CREATE ON SCHEMA {schema}"),
    }
    .into())
}

/// Fails if an applied migration differs from this release's. The migrator checks that too, but only if it runs.
async fn check_checksums(connection: &mut Connection) -> Result<(), OperationError> {
    let reading = transact(connection, async |tx| {
        let reading = sqlx::query_as(
            "-- schema_checksums
             SELECT version, checksum FROM cloudflare_images_webhook_migrations",
        );
        Ok(reading.fetch_all(tx).await?)
    });
    let applied: Vec<(i64, Vec<u8>)> = reading.await?;
    let migrator = migrator();
    let is_changed = |migration: &&Migration| {
        let mut applied = applied.iter();
        applied.any(|(version, checksum)| {
            *version == migration.version && *checksum != *migration.checksum
        })
    };
    let changed = migrator.iter().find(is_changed);
    match changed {
        Some(migration) => {
            let error = MigrateError::VersionMismatch(migration.version);
            Err(StoreError::Migration(error).into())
        }
        None => Ok(()),
    }
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

/// Waits until no other process migrates. The server frees the lock at the end of the transaction, which is also the end of this
/// process. A lock of the session could stay behind in a pooler.
///
/// Between two attempts, the transaction has no snapshot. So `CREATE INDEX CONCURRENTLY` in another process does not wait for it.
async fn lock(tx: &mut Connection) -> Result<(), sqlx::Error> {
    let mut is_first = true;
    loop {
        let is_locked: bool = sqlx::query_scalar(
            "-- schema_lock
             SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))",
        )
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *tx)
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
    let database = &backend.runner.database;
    let reading = backend.read("checking whether it is writable", async |connection| {
        let (is_read_only, user, table_privilege, sequence_privilege): (
            bool,
            String,
            Option<String>,
            Option<String>,
        ) = sqlx::query_as(
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
        .await?;
        if is_read_only {
            // As an error of the operation, it also closes the connection.
            let database = database.clone();
            return Err(StoreError::ReadOnly { database }.into());
        }
        Ok((user, table_privilege.or(sequence_privilege)))
    });
    match reading.await? {
        (user, Some(privilege)) => Err(StoreError::MissingPrivilege {
            database: database.clone(),
            user,
            privilege,
        }),
        (_, None) => Ok(()),
    }
}
