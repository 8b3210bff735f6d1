//! The adoption of existing tables in Postgres, while apps use them.
//!
//! A migration would hold its locks until the index of a large table is built. So these steps run before the migrations:
//!
//! 1. Alter the tables under locks that last milliseconds. If an app holds a lock, the step gives up and tries again.
//! 2. Build the index with `CONCURRENTLY`, outside a transaction. `CONCURRENTLY` does not work on a partitioned table, so each
//!    partition gets an index of its own (see [`partitions`](super::partitions)).
//! 3. Record the last adopted rows, and the migration of the audit log as applied.
//!
//! Each step can be repeated, so an interrupted adoption continues at the next start. Step 3 replaces the migration of the audit
//! log, because the migration drops every foreign key of the table, and a released migration cannot change.

use std::pin::pin;
use std::time::Duration;

use sqlx::migrate::Migration;
use sqlx::{AssertSqlSafe, Executor};

use super::alteration::{
    Alteration, ForeignKey, LOCK_RETRY_INTERVAL, is_lock_failure, with_short_locks,
};
use super::connection::{Connection, PoolMode};
use super::migrator::{begin, commit, migrator, run_until, transact};
use super::partitions::build_partitioned_index;
use super::shared::adoption::{adoptable_tables, record_adoption};
use crate::store::adoption::{
    ADOPTIONS_MIGRATION, AUDIT_LOG_MIGRATION, IMAGES_MIGRATION, OwnTable,
};
use crate::store::error::DatabaseLabel;
use crate::store::session::OperationError;

/// The time between two lines in the log while the index is built.
const PROGRESS_INTERVAL: Duration = Duration::from_mins(1);

/// The adoption of the tables that exist although their migration has not run. The caller has the lock of the migrations.
pub(super) struct Adoption {
    tables: Vec<OwnTable>,
}

impl Adoption {
    /// Finds the tables in a transaction.
    pub(super) async fn find(
        tx: &mut Connection,
        database: &DatabaseLabel,
    ) -> Result<Self, OperationError> {
        let tables = adoptable_tables(tx, database).await?;
        for table in &tables {
            tracing::info!(table = table.name, "adopting an existing table");
        }
        Ok(Self { tables })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Alters the tables (step 1).
    pub(super) async fn alter(&self, connection: &mut Connection) -> Result<(), OperationError> {
        if self.includes(IMAGES_MIGRATION) {
            with_short_locks(connection, &Alteration::Images).await?;
        }
        if self.includes(AUDIT_LOG_MIGRATION) {
            let mut tx = begin(connection).await?;
            run_until(&mut tx, Some(IMAGES_MIGRATION)).await?;
            commit(tx).await?;
            let finding = transact(connection, async |tx| foreign_keys_to_drop(tx).await);
            let alteration = Alteration::AuditLog(finding.await?);
            with_short_locks(connection, &alteration).await?;
        }
        Ok(())
    }

    /// Builds the index of the audit log, if it is missing or an earlier build was interrupted (step 2).
    ///
    /// It has no deadline, because it takes as long as the table is large, and an interrupted build begins again. A build can also
    /// have been interrupted before an older release ran the migration, which keeps an invalid index.
    pub(super) async fn build_index(
        &self,
        connection: &mut Connection,
    ) -> Result<(), OperationError> {
        let index = AuditLogIndex::find(connection).await?;
        let is_needed = match index.and_then(|index| index.is_valid) {
            Some(is_valid) => !is_valid,
            None => self.includes(AUDIT_LOG_MIGRATION),
        };
        if !is_needed {
            return Ok(());
        }
        tracing::info!(
            table = "cloudflare_image_logs",
            "building an index of an adopted table; this waits for all transactions that are open now"
        );
        // In the other mode, the setting could apply to another session. The timeout of the role applies then.
        if connection.mode() == PoolMode::Session {
            connection.execute("SET statement_timeout = 0").await?;
        }
        log_progress(build_missing_index(connection)).await?;
        tracing::info!(table = "cloudflare_image_logs", "built the index");
        Ok(())
    }

    /// Records the last adopted rows, and the migration of the audit log as applied (step 3).
    pub(super) async fn record(&self, connection: &mut Connection) -> Result<(), OperationError> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let migrator = migrator();
        let find = |version| {
            let mut migrations = migrator.iter();
            migrations
                .find(|migration| migration.version == version)
                .expect("the migration exists")
        };
        let recording = transact(connection, async |tx| {
            let create_adoptions = find(ADOPTIONS_MIGRATION).sql.clone();
            tx.execute(sqlx::raw_sql(create_adoptions)).await?;
            record_adoption(tx, &self.tables).await?;
            if self.includes(AUDIT_LOG_MIGRATION) {
                record_migration(tx, find(AUDIT_LOG_MIGRATION)).await?;
            }
            Ok(())
        });
        recording.await
    }

    fn includes(&self, migration: i64) -> bool {
        self.tables.iter().any(|table| table.migration == migration)
    }
}

/// Records a migration as applied, as sqlx's migrator does. A release without the lock of the migrations may have recorded it.
async fn record_migration(
    tx: &mut Connection,
    migration: &Migration,
) -> Result<(), OperationError> {
    sqlx::query(
        "-- adoption_record_migration
         INSERT INTO cloudflare_images_webhook_migrations (version, description, success, checksum, execution_time)
         VALUES ($1, $2, true, $3, 0) ON CONFLICT (version) DO NOTHING",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .execute(tx)
    .await?;
    Ok(())
}

/// Returns the foreign keys on `image_id` alone: entries outlive their image, and some have no image. Logs each foreign key of the
/// table and of its partitions.
async fn foreign_keys_to_drop(
    connection: &mut Connection,
) -> Result<Vec<ForeignKey>, OperationError> {
    let foreign_keys: Vec<(String, String, String, bool)> = sqlx::query_as(
        "-- adoption_foreign_keys
         SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid), conkey = ARRAY(
             SELECT attnum FROM pg_attribute WHERE attrelid = conrelid AND attname = 'image_id'
         )
         FROM pg_constraint
         WHERE contype = 'f' AND conparentid = 0 AND (
             conrelid = 'cloudflare_image_logs'::regclass
             OR conrelid IN (SELECT relid FROM pg_partition_tree('cloudflare_image_logs'))
         )
         ORDER BY conrelid, conname",
    )
    .fetch_all(connection)
    .await?;
    let mut to_drop = Vec::new();
    for (table, name, definition, is_of_image) in foreign_keys {
        if is_of_image {
            tracing::warn!(
                table,
                foreign_key = name,
                definition,
                "dropping a foreign key of an adopted table, because audit log entries outlive their image"
            );
            to_drop.push(ForeignKey { table, name });
        } else {
            tracing::info!(
                table,
                foreign_key = name,
                definition,
                "keeping a foreign key of an adopted table"
            );
        }
    }
    Ok(to_drop)
}

/// The index that the migration of the audit log creates.
pub(super) struct AuditLogIndex {
    /// The quoted name of the table's schema. Outside a transaction, `search_path` is not set.
    schema: String,
    /// `None` if the index is missing. An interrupted build leaves an invalid index.
    is_valid: Option<bool>,
    is_partitioned: bool,
}

impl AuditLogIndex {
    /// Finds the index. Returns `None` if the audit log is missing.
    async fn find(connection: &mut Connection) -> Result<Option<Self>, OperationError> {
        let reading = sqlx::query_as(
            "-- adoption_index
             SELECT quote_ident(nspname), indisvalid, relkind = 'p'
             FROM pg_class
             JOIN pg_namespace ON pg_namespace.oid = relnamespace
             LEFT JOIN pg_index ON indrelid = pg_class.oid
                 AND indexrelid = to_regclass('cloudflare_image_logs_image_id_timestamp')
             WHERE pg_class.oid = to_regclass('cloudflare_image_logs')",
        );
        let finding = transact(connection, async |tx| {
            Ok(reading.fetch_optional(tx).await?)
        });
        let found: Option<(String, Option<bool>, bool)> = finding.await?;
        Ok(found.map(|(schema, is_valid, is_partitioned)| Self {
            schema,
            is_valid,
            is_partitioned,
        }))
    }

    /// Returns whether an interrupted build left an invalid index.
    pub(super) async fn is_invalid(connection: &mut Connection) -> Result<bool, OperationError> {
        let index = Self::find(connection).await?;
        Ok(index.is_some_and(|index| index.is_valid == Some(false)))
    }
}

/// Builds the index without blocking reads and writes. Replaces an invalid one. If Postgres ends the build because of a deadlock
/// with an app, it begins again.
async fn build_missing_index(connection: &mut Connection) -> Result<(), OperationError> {
    loop {
        match replace_index(connection).await {
            Err(error) if is_lock_failure(&error) => tokio::time::sleep(LOCK_RETRY_INTERVAL).await,
            built => return built,
        }
    }
}

async fn replace_index(connection: &mut Connection) -> Result<(), OperationError> {
    let Some(index) = AuditLogIndex::find(connection).await? else {
        return Ok(());
    };
    let schema = index.schema;
    if index.is_partitioned {
        return build_partitioned_index(connection, &schema).await;
    }
    if index.is_valid == Some(false) {
        let drop =
            format!("DROP INDEX CONCURRENTLY {schema}.cloudflare_image_logs_image_id_timestamp");
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    // The name and the columns are those of the migration.
    let create = format!(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS cloudflare_image_logs_image_id_timestamp
         ON {schema}.cloudflare_image_logs (image_id, timestamp)"
    );
    connection.execute(AssertSqlSafe(create)).await?;
    Ok(())
}

/// Waits for the build of the index, and logs each minute that it continues.
async fn log_progress<T>(building: impl Future<Output = T>) -> T {
    let mut building = pin!(building);
    loop {
        if let Ok(built) = tokio::time::timeout(PROGRESS_INTERVAL, &mut building).await {
            return built;
        }
        tracing::info!(
            table = "cloudflare_image_logs",
            "the index is still being built; pg_stat_progress_create_index shows what it waits for"
        );
    }
}
