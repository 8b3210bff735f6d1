//! Recording notifications in SQLite. Rows are bound as one JSON array, which the statement splits with `json_each` or
//! `jsonb_each`. One statement for all rows is faster, because each statement is a round trip to SQLite's thread.

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::columns::{json, json_rows, parse_time, parse_uuid};
use crate::domain::audit::AuditEntry;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::inbox::columns::{
    DetailColumns, StateColumns, detail_columns, encode_details_at, extra_columns,
};
use crate::store::inbox::image_update::ChangedImage;
use crate::store::inbox::statements::{ColumnSet, ImageStatements, UndatedReport, WriteResult};
use crate::store::session::OperationError;

impl ImageStatements for SqliteConnection {
    async fn insert_missing_images(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> Result<Vec<String>, OperationError> {
        Ok(sqlx::query_scalar(
            // Without WHERE, SQLite would parse ON as a part of a join.
            "-- inbox_insert_missing
             INSERT INTO cloudflare_images (cloudflare_id, created_at, updated_at)
             SELECT value, $2, $2 FROM json_each($1) WHERE true
             ON CONFLICT (cloudflare_id) DO NOTHING
             RETURNING cloudflare_id",
        )
        .bind(json(ids))
        .bind(now.to_string())
        .fetch_all(self)
        .await?)
    }

    /// Needs no row locks, because the transaction has the write lock. Returns all rows as one JSON value, because each row would
    /// be a round trip to SQLite's thread.
    async fn lock_images(
        &mut self,
        ids: &[&str],
        columns: ColumnSet,
    ) -> Result<Vec<StateColumns>, OperationError> {
        let images: String = sqlx::query_scalar(concat!(
            "-- inbox_lock_images
             SELECT json_group_array(json_array(id, cloudflare_id, status, status_at, uploaded_at, error, details_at, json_array(",
            detail_columns!(""),
            "), CASE WHEN $2 THEN json_array(",
            extra_columns!("CASE WHEN json_valid(metadata) THEN json(metadata) END"),
            ") END)) FROM cloudflare_images WHERE cloudflare_id IN (SELECT value FROM json_each($1))",
        ))
        .bind(json(ids))
        .bind(columns.has_extra())
        .fetch_one(self)
        .await?;
        let images: Vec<JsonColumns> = serde_json::from_str(&images)
            .map_err(|_| sqlx::Error::Decode(UnexpectedColumnType.into()))?;
        images.into_iter().map(JsonColumns::read).collect()
    }

    async fn find_already_logged(
        &mut self,
        reports: &[UndatedReport<'_>],
    ) -> Result<Vec<usize>, OperationError> {
        let rows = json_rows(reports, |report| {
            (report.cloudflare_id.as_str(), &report.data)
        });
        let positions: Vec<i64> = sqlx::query_scalar(
            "-- inbox_find_already_logged
             SELECT row.key FROM jsonb_each($1) AS row
             WHERE EXISTS (
                 SELECT 1 FROM cloudflare_image_logs
                 WHERE image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = row.value ->> 0) AND data = row.value ->> 1
             )",
        )
        .bind(rows)
        .fetch_all(self)
        .await?;
        Ok(positions
            .into_iter()
            .filter_map(|position| usize::try_from(position).ok())
            .collect())
    }

    async fn write_images(
        &mut self,
        images: &[ChangedImage],
        entries: &[AuditEntry],
        with_entry_ids: bool,
    ) -> Result<WriteResult, OperationError> {
        let mut written = WriteResult::default();
        if !images.is_empty() {
            written.updated_images = update_images(self, images).await?;
        }
        if !entries.is_empty() {
            (written.inserted_entries, written.entry_ids) =
                insert_entries(self, entries, with_entry_ids).await?;
        }
        Ok(written)
    }

    async fn delete_image(&mut self, id: &CloudflareId) -> Result<u64, OperationError> {
        let deleted = sqlx::query(
            "-- catalog_delete
             DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
        )
        .bind(id.as_str())
        .execute(self);
        Ok(deleted.await?.rows_affected())
    }
}

/// Updates images. Finds rows by `cloudflare_id`, because an app may have written the UUID in `id` in another spelling.
async fn update_images(
    connection: &mut SqliteConnection,
    images: &[ChangedImage],
) -> Result<u64, OperationError> {
    let rows = json_rows(images, |image| {
        let (state, details) = (&image.state, &image.state.details);
        (
            image.cloudflare_id.as_str(),
            state.status.name(),
            state.status_at.map(|at| at.to_string()),
            state.uploaded_at.map(|at| at.to_string()),
            &state.error,
            &details.filename.value,
            &details.creator.value,
            details.require_signed_urls.value,
            image.variants(),
            image.cloudflare_metadata(),
            encode_details_at(details),
            image.updated_at.to_string(),
        )
    });
    Ok(sqlx::query(
        "-- inbox_write
         UPDATE cloudflare_images
         SET status = row.value ->> 1, status_at = row.value ->> 2, uploaded_at = row.value ->> 3, error = row.value ->> 4,
             filename = row.value ->> 5, creator = row.value ->> 6, require_signed_urls = row.value ->> 7,
             variants = COALESCE(row.value ->> 8, variants),
             cloudflare_metadata = COALESCE(row.value ->> 9, cloudflare_metadata),
             details_at = row.value ->> 10, updated_at = row.value ->> 11
         FROM jsonb_each($1) AS row
         WHERE cloudflare_id = row.value ->> 0",
    )
    .bind(rows)
    .execute(connection)
    .await?
    .rows_affected())
}

/// Inserts audit log entries. Returns their number and their ids. Returns ids only if requested, because each returned row is a
/// round trip to SQLite's thread.
async fn insert_entries(
    connection: &mut SqliteConnection,
    entries: &[AuditEntry],
    with_ids: bool,
) -> Result<(u64, Vec<i64>), OperationError> {
    let rows = json_rows(entries, |entry| {
        (
            entry.image.as_ref().map(|(_, id)| id.as_str()),
            entry.event_type,
            &entry.message,
            &entry.data,
            entry.timestamp.to_string(),
        )
    });
    macro_rules! inbox_write {
        ($returning:literal) => {
            concat!(
                "-- inbox_write
                 INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
                 SELECT (SELECT id FROM cloudflare_images WHERE cloudflare_id = value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4
                 FROM jsonb_each($1) ORDER BY key",
                $returning
            )
        };
    }
    if !with_ids {
        let inserted = sqlx::query(inbox_write!("")).bind(rows);
        let inserted = inserted.execute(connection).await?;
        return Ok((inserted.rows_affected(), Vec::new()));
    }
    let inserted = sqlx::query_scalar(inbox_write!(" RETURNING id")).bind(rows);
    let mut ids: Vec<i64> = inserted.fetch_all(connection).await?;
    // SQLite assigns the ids in the order of the entries, but may return them in any order.
    ids.sort_unstable();
    Ok((ids.len() as u64, ids))
}

/// The columns of [`StateColumns`], in the order of the `json_array` call.
#[derive(Deserialize)]
struct JsonColumns(
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    String,
    DetailColumns,
    Option<Box<RawValue>>,
);

/// The error of a column whose JSON value has the wrong type.
#[derive(Debug, thiserror::Error)]
#[error(
    "a row of cloudflare_images has a value of the wrong type, such as text instead of a number"
)]
struct UnexpectedColumnType;

impl JsonColumns {
    fn read(self) -> Result<StateColumns, OperationError> {
        let id = parse_uuid(self.0)?;
        Ok(StateColumns {
            id,
            cloudflare_id: self.1,
            status: self.2,
            status_at: parse_time(self.3, "status_at", id)?,
            uploaded_at: parse_time(self.4, "uploaded_at", id)?,
            error: self.5,
            details_at: self.6,
            details: self.7.into(),
            extra_columns: self.8.map(|extra| Box::<str>::from(extra).into()),
        })
    }
}
