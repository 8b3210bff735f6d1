//! The adoption of existing tables, mounted into each backend (see [`super`]).

use super::columns::Connection;
use super::table_statements::{
    COLUMN_RULES, COLUMNS, HAS_INSERT_TRIGGER, IS_TABLE, SCHEMA_EXISTS, UNIQUE_COLUMNS,
};
use crate::store::adoption::{Column, ExistingTable, OwnTable};
use crate::store::error::{DatabaseLabel, StoreError};
use crate::store::retention::PrunableTable;
use crate::store::schema::MIGRATIONS_TABLE;
use crate::store::session::OperationError;

/// Returns the version numbers of the migrations that were applied.
pub(in crate::store) async fn applied_migrations(
    connection: &mut Connection,
) -> Result<Vec<i64>, OperationError> {
    let exists: bool = sqlx::query_scalar(SCHEMA_EXISTS)
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let applied = sqlx::query_scalar(
        "-- schema_applied
         SELECT version FROM cloudflare_images_webhook_migrations WHERE success",
    );
    Ok(applied.fetch_all(connection).await?)
}

/// Returns the tables that exist although their migration has not run. Fails if one of them cannot be adopted. Only reads.
pub(in crate::store) async fn adoptable_tables(
    connection: &mut Connection,
    database: &DatabaseLabel,
) -> Result<Vec<OwnTable>, OperationError> {
    let applied = applied_migrations(connection).await?;
    let mut adoptable = Vec::new();
    for table in OwnTable::ALL {
        if applied.contains(&table.migration) {
            continue;
        }
        let is_table: Option<bool> = sqlx::query_scalar(IS_TABLE)
            .bind(table.name)
            .fetch_optional(&mut *connection)
            .await?;
        let obstacle = match is_table {
            None => continue,
            Some(false) => {
                Some("it, or one of its partitions, is not an ordinary table".to_owned())
            }
            Some(true) => {
                let existing = existing_table(connection, &table).await?;
                table.obstacle(&existing, &COLUMN_RULES)
            }
        };
        if let Some(obstacle) = obstacle {
            return Err(OperationError::Store(StoreError::NotAdoptable {
                database: database.clone(),
                table: table.name,
                obstacle,
            }));
        }
        adoptable.push(table);
    }
    Ok(adoptable)
}

async fn existing_table(
    connection: &mut Connection,
    table: &OwnTable,
) -> Result<ExistingTable, OperationError> {
    let rows: Vec<(String, String, bool, bool)> = sqlx::query_as(COLUMNS)
        .bind(table.name)
        .fetch_all(&mut *connection)
        .await?;
    let columns = rows
        .into_iter()
        .map(|(name, data_type, is_nullable, has_default)| Column {
            name,
            data_type,
            is_nullable,
            has_default,
        });
    Ok(ExistingTable {
        columns: columns.collect(),
        unique_columns: sqlx::query_scalar(UNIQUE_COLUMNS)
            .bind(table.name)
            .fetch_all(&mut *connection)
            .await?,
        has_insert_trigger: sqlx::query_scalar(HAS_INSERT_TRIGGER)
            .bind(table.name)
            .fetch_one(connection)
            .await?,
    })
}

/// Records the last row of each adopted table, so retention keeps its rows. An adoption that was interrupted is recorded again.
pub(in crate::store) async fn record_adoption(
    connection: &mut Connection,
    adopted: &[OwnTable],
) -> Result<(), OperationError> {
    for table in PrunableTable::ALL {
        if !adopted.iter().any(|adopted| adopted.name == table.name()) {
            continue;
        }
        let last_id = match table {
            PrunableTable::AuditLog => {
                "-- adoption_last_log
                 SELECT CAST(max(id) AS bigint) FROM cloudflare_image_logs"
            }
            PrunableTable::Rejections => {
                "-- adoption_last_rejection
                 SELECT max(id) FROM webhook_rejections"
            }
            PrunableTable::Deliveries => {
                "-- adoption_last_delivery
                 SELECT max(id) FROM relay_deliveries"
            }
        };
        let last_id: Option<i64> = sqlx::query_scalar(last_id)
            .fetch_one(&mut *connection)
            .await?;
        let Some(last_id) = last_id else {
            continue;
        };
        sqlx::query(
            "-- adoption_record
             INSERT INTO cloudflare_images_webhook_adoptions (table_name, last_id) VALUES ($1, $2)
             ON CONFLICT (table_name) DO UPDATE SET last_id = excluded.last_id",
        )
        .bind(table.name())
        .bind(last_id)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
