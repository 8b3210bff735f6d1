//! The index of a partitioned audit log, built while apps use the table.
//!
//! Postgres builds no index of a partitioned table with `CONCURRENTLY`. Its documentation of `CREATE INDEX` has these steps:
//!
//! 1. Create the index `ON ONLY` the partitioned table. It is empty and invalid.
//! 2. Build an index of each partition with `CONCURRENTLY`.
//! 3. Attach it to the index of the partitioned table, which becomes valid with the last one.
//!
//! An interrupted build continues with the partitions that have no attached index. A new partition gets its index from Postgres.
//!
//! An app may detach the last partition without an index. No attachment follows, so the index of the partitioned table would stay
//! invalid. Postgres checks it again if an attachment is repeated.

use sqlx::{AssertSqlSafe, Executor};

use super::alteration::{Alteration, with_short_locks};
use super::connection::Connection;
use super::migrator::transact;
use crate::store::session::OperationError;

/// A partition that has no attached index. All names are SQL text.
#[derive(sqlx::FromRow)]
struct Partition {
    table: String,
    /// Whether the partition is not partitioned itself.
    is_leaf: bool,
    schema: String,
    /// The name of its index, without the schema.
    index: String,
    /// `None` if the index is missing. An interrupted build leaves an invalid index.
    is_valid: Option<bool>,
    /// The index to attach it to.
    parent_index: String,
}

/// Builds the index of the partitioned audit log in this schema, or continues an interrupted build.
pub(super) async fn build_partitioned_index(
    connection: &mut Connection,
    schema: &str,
) -> Result<(), OperationError> {
    // The name and the columns are those of the migration.
    let create = format!(
        "CREATE INDEX IF NOT EXISTS cloudflare_image_logs_image_id_timestamp
         ON ONLY {schema}.cloudflare_image_logs (image_id, timestamp)"
    );
    with_short_locks(connection, &Alteration::Index(create)).await?;
    while let Some(partition) = next_partition(connection).await? {
        tracing::info!(
            table = partition.table,
            "building the index of a partition of an adopted table"
        );
        partition.build_index(connection).await?;
        let attach = format!(
            "ALTER INDEX {} ATTACH PARTITION {}.{}",
            partition.parent_index, partition.schema, partition.index
        );
        with_short_locks(connection, &Alteration::Index(attach)).await?;
    }
    for attach in attachments_to_repeat(connection).await? {
        with_short_locks(connection, &Alteration::Index(attach)).await?;
    }
    Ok(())
}

impl Partition {
    async fn build_index(&self, connection: &mut Connection) -> Result<(), OperationError> {
        let Self {
            table,
            schema,
            index,
            ..
        } = self;
        if !self.is_leaf {
            let create =
                format!("CREATE INDEX IF NOT EXISTS {index} ON ONLY {table} (image_id, timestamp)");
            return with_short_locks(connection, &Alteration::Index(create)).await;
        }
        if self.is_valid == Some(false) {
            let drop = format!("DROP INDEX CONCURRENTLY {schema}.{index}");
            connection.execute(AssertSqlSafe(drop)).await?;
        }
        let create = format!(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} (image_id, timestamp)"
        );
        connection.execute(AssertSqlSafe(create)).await?;
        Ok(())
    }
}

/// Returns the next partition without an attached index. A partition that is partitioned itself comes before its own partitions.
async fn next_partition(connection: &mut Connection) -> Result<Option<Partition>, OperationError> {
    let reading = sqlx::query_as(
        "-- adoption_next_partition
         WITH attached AS (
             SELECT index.indexrelid, index.indrelid
             FROM pg_partition_tree(to_regclass('cloudflare_image_logs_image_id_timestamp')) AS tree
                 JOIN pg_index AS index ON index.indexrelid = tree.relid
         ), missing AS (
             SELECT tree.level, class.oid, namespace.nspname, class.relname, tree.isleaf, parent.indexrelid AS parent_index,
                 -- Partitions may have long names, so the index has a number.
                 'cloudflare_image_logs_image_id_timestamp_' || class.oid AS index
             FROM pg_partition_tree(to_regclass('cloudflare_image_logs')) AS tree
                 JOIN pg_class AS class ON class.oid = tree.relid
                 JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
                 JOIN attached AS parent ON parent.indrelid = tree.parentrelid
             WHERE NOT EXISTS (SELECT FROM attached AS own WHERE own.indrelid = tree.relid)
             ORDER BY tree.level, class.oid LIMIT 1
         )
         SELECT format('%I.%I', missing.nspname, missing.relname) AS table, missing.isleaf AS is_leaf,
             quote_ident(missing.nspname) AS schema, missing.index, own.indisvalid AS is_valid,
             format('%I.%I', parent_namespace.nspname, parent.relname) AS parent_index
         FROM missing
             JOIN pg_class AS parent ON parent.oid = missing.parent_index
             JOIN pg_namespace AS parent_namespace ON parent_namespace.oid = parent.relnamespace
             LEFT JOIN pg_index AS own ON own.indrelid = missing.oid
                 AND own.indexrelid = to_regclass(format('%I.%I', missing.nspname, missing.index))",
    );
    transact(connection, async |tx| {
        Ok(reading.fetch_optional(tx).await?)
    })
    .await
}

/// Returns a statement for each index of a partitioned table that is still invalid. The statement attaches one of its partitions'
/// indexes again. Partitions come before the table that they are part of.
async fn attachments_to_repeat(connection: &mut Connection) -> Result<Vec<String>, OperationError> {
    let reading = sqlx::query_scalar(
        "-- adoption_attachments_to_repeat
         SELECT format('ALTER INDEX %s ATTACH PARTITION %s', tree.parentrelid, min(tree.relid::oid)::regclass)
         FROM pg_partition_tree(to_regclass('cloudflare_image_logs_image_id_timestamp')) AS tree
             JOIN pg_index AS parent ON parent.indexrelid = tree.parentrelid
         WHERE NOT parent.indisvalid
         GROUP BY tree.level, tree.parentrelid ORDER BY tree.level DESC",
    );
    transact(connection, async |tx| Ok(reading.fetch_all(tx).await?)).await
}
