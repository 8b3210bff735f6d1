//! Columns in SQLite: binding values, decoding rows, and the names that `shared` imports.

use std::time::Duration;

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use crate::clock::ClockReading;
use crate::domain::image::Image;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::columns::{DetailColumns, ImageColumns, StateColumns, undecodable};
use crate::store::session::OperationError;
use crate::store::transfer::ExportedImage;

pub(super) use super::session::Sqlite as Backend;
pub(super) use sqlx::SqliteConnection as Connection;
pub(super) use sqlx::sqlite::SqliteRow as Row;

/// The statement of [`ImageCatalog::add`](crate::store::ImageCatalog::add). SQLite stores JSON as text.
pub(super) const CATALOG_ADD: &str = "-- catalog_add
     INSERT INTO cloudflare_images
         (cloudflare_id, filename, creator, metadata, created_at, updated_at, expires_at, require_signed_urls)
     VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
     ON CONFLICT (cloudflare_id) DO NOTHING";

/// The statement that deletes up to `$2` upload requests from before `$1`.
pub(super) const UPLOAD_REQUESTS_DELETE_OLD: &str = "-- upload_requests_delete_old
     DELETE FROM cloudflare_upload_requests WHERE id IN (
         SELECT id FROM cloudflare_upload_requests WHERE created_at < $1 ORDER BY created_at LIMIT $2
     )";

/// The statement that deletes old deliveries. A trigger deletes their attempts, and events without other deliveries.
pub(super) const RETENTION_DELIVERIES_DELETE: &str = "-- retention_deliveries_delete
     DELETE FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL";

/// The current time of leases and due times. SQLite has no clock of its own.
macro_rules! now {
    ($parameter:literal) => {
        $parameter
    };
}
pub(super) use now;

/// The ids in the parameter.
macro_rules! selected_ids {
    ($parameter:literal) => {
        concat!("SELECT value FROM json_each(", $parameter, ")")
    };
}
pub(super) use selected_ids;

/// Converts ids for binding to the parameter of [`selected_ids`].
pub(super) fn bind_ids(ids: impl Iterator<Item = i64>) -> String {
    json(&ids.collect::<Vec<_>>())
}

/// Converts a reading for binding to the parameter of [`now`].
pub(super) fn bind_now(now: ClockReading) -> String {
    bind_time(now.time())
}

/// The ids of up to `$3` deliveries to the endpoint `$1` that are not delivered and not leased at `$2`. If `$4` is true, also of failed
/// ones.
macro_rules! unsent_ids {
    () => {
        concat!(
            "SELECT id FROM (
                 SELECT id FROM relay_deliveries
                 WHERE endpoint = $1 AND due_at IS NOT NULL AND (status <> 'leased' OR due_at <= ",
            now!("$2"),
            ") UNION ALL
                 SELECT id FROM relay_deliveries WHERE $4 AND endpoint = $1 AND status = 'failed'
             ) AS unsent LIMIT $3"
        )
    };
}
pub(super) use unsent_ids;

/// The time that is a duration before now. Both parameters have times: SQLite does not calculate with them.
macro_rules! ago {
    ($now:literal, $duration:literal) => {
        $duration
    };
}
pub(super) use ago;

/// Converts a time before now for binding to the second parameter of [`ago`].
pub(super) fn bind_ago(now: ClockReading, duration: Duration) -> String {
    bind_time(now.time().saturating_sub(duration))
}

/// The time that is a duration after now. Both parameters have times: SQLite does not calculate with them.
macro_rules! later {
    ($now:literal, $duration:literal) => {
        $duration
    };
}
pub(super) use later;

/// Converts a time after now for binding to the second parameter of [`later`].
pub(super) fn bind_later(now: ClockReading, duration: Duration) -> String {
    bind_time(now.time().saturating_add(duration))
}

/// The current time in microseconds since 1970, as [`now`].
macro_rules! now_micros {
    ($parameter:literal) => {
        $parameter
    };
}
pub(super) use now_micros;

/// Converts a reading for binding to the parameter of [`now_micros`].
pub(super) fn bind_now_micros(now: ClockReading) -> i64 {
    now.time().unix_micros()
}

/// The parameter with a text. SQLite stores times and UUIDs as text.
macro_rules! from_text {
    ($parameter:literal, $type:literal) => {
        $parameter
    };
}
pub(super) use from_text;

/// A value as text. SQLite stores times and UUIDs as text.
macro_rules! as_text {
    ($value:literal) => {
        $value
    };
}
pub(super) use as_text;

/// The lock on rows that a statement is about to change. SQLite locks the whole database.
macro_rules! skip_locked {
    () => {
        ""
    };
}
pub(super) use skip_locked;

/// The position before every image: a time and an id.
pub(super) const FIRST_POSITION: (&str, &str) = ("", "");

/// The UUIDs in the parameter.
macro_rules! selected_uuids {
    ($parameter:literal) => {
        concat!("SELECT value FROM json_each(", $parameter, ")")
    };
}
pub(super) use selected_uuids;

/// The texts in the parameter.
macro_rules! selected_texts {
    ($parameter:literal) => {
        concat!("SELECT value FROM json_each(", $parameter, ")")
    };
}
pub(super) use selected_texts;

/// Converts texts for binding to the parameter of [`selected_texts`] or [`selected_uuids`].
pub(super) fn bind_texts(ids: &[&str]) -> String {
    json(ids)
}

/// The statement that deletes the selected deliveries. A trigger deletes their attempts, and events without other deliveries.
pub(super) const DELIVERIES_DELETE: &str = concat!(
    "-- deliveries_delete
     DELETE FROM relay_deliveries WHERE id IN (",
    unsent_ids!(),
    ")"
);

/// The columns of [`ImageColumns`].
macro_rules! image_columns {
    () => {
        concat!(
            "id, cloudflare_id, status, status_at, uploaded_at, error, details_at, metadata, created_at, updated_at, ",
            $crate::store::inbox::columns::detail_columns!("")
        )
    };
}
pub(super) use image_columns;

/// The rows of an import in a parameter, as a table with the columns of
/// [`imported_columns`](crate::store::transfer::rows::imported_columns).
macro_rules! imported_rows {
    ($parameter:literal) => {
        concat!(
            "(SELECT value ->> 'id' AS id, value ->> 'cloudflare_id' AS cloudflare_id, value ->> 'status' AS status,
                 value ->> 'status_at' AS status_at, value ->> 'uploaded_at' AS uploaded_at, value ->> 'error' AS error,
                 value ->> 'filename' AS filename, value ->> 'creator' AS creator,
                 value ->> 'require_signed_urls' AS require_signed_urls, value -> 'variants' AS variants,
                 value -> 'cloudflare_metadata' AS cloudflare_metadata, value ->> 'details_at' AS details_at,
                 value -> 'metadata' AS metadata, value ->> 'user_id' AS user_id,
                 value ->> 'original_filename' AS original_filename, value ->> 'content_type' AS content_type,
                 value ->> 'file_size' AS file_size, value ->> 'width' AS width, value ->> 'height' AS height,
                 value ->> 'format' AS format, value ->> 'created_at' AS created_at, value ->> 'updated_at' AS updated_at,
                 value ->> 'expires_at' AS expires_at, value ->> 'last_referenced_at' AS last_referenced_at
             FROM jsonb_each(",
            $parameter,
            "))"
        )
    };
}
pub(super) use imported_rows;

/// The columns of [`ExportedImage`].
macro_rules! exported_columns {
    () => {
        concat!(
            $crate::store::sqlite::columns::image_columns!(),
            ", json_array(",
            $crate::store::inbox::columns::extra_columns!("NULL"),
            ") AS extra_columns"
        )
    };
}
pub(super) use exported_columns;

/// The position of an export in a parameter. An app may have written the UUID in another spelling, so the text is compared.
macro_rules! page_position {
    ($parameter:literal) => {
        $parameter
    };
}
pub(super) use page_position;

/// Reads the position of a row with the [`exported_columns`].
pub(super) fn read_position(row: &SqliteRow) -> Result<String, sqlx::Error> {
    row.try_get("id")
}

/// Decodes a row with the [`exported_columns`]. Returns its size in bytes too.
pub(super) fn read_exported(row: &SqliteRow) -> Result<(ExportedImage, usize), OperationError> {
    let extra_columns: &str = row.try_get("extra_columns")?;
    Ok(ExportedImage::decode(read_image(row)?, extra_columns)?)
}

/// Converts a time for binding.
pub(super) fn bind_time(time: Timestamp) -> String {
    time.to_string()
}

/// Reads a time from a column that only this service writes.
pub(super) fn read_time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    let time = text.map(Timestamp::parse_rfc3339).transpose();
    time.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Reads a time from a column that another program may have written. `None` if it is absent, or if it is not a time.
pub(super) fn read_time_if_valid(row: &SqliteRow, column: &str) -> Option<Timestamp> {
    let text: Option<String> = row.try_get(column).ok()?;
    parse_time(text, "", Uuid::nil()).ok()?
}

/// Decodes an image from a row with the [`image_columns`].
pub(super) fn read_image(row: &SqliteRow) -> Result<Image, OperationError> {
    let id = parse_uuid(row.try_get("id")?)?;
    let time = |column| parse_time(row.try_get(column)?, column, id);
    let state = StateColumns {
        id,
        cloudflare_id: row.try_get("cloudflare_id")?,
        status: row.try_get("status")?,
        status_at: time("status_at")?,
        uploaded_at: time("uploaded_at")?,
        error: row.try_get("error")?,
        details: DetailColumns::from_row(row)?.into(),
        details_at: row.try_get("details_at")?,
        extra_columns: None,
    };
    let columns = ImageColumns {
        state,
        metadata: row.try_get("metadata")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
    };
    Ok(columns.decode()?)
}

/// Parses the column `id` of an image.
pub(super) fn parse_uuid(text: String) -> Result<Uuid, OperationError> {
    Uuid::parse_str(&text).map_err(|_| {
        StoreError::Undecodable {
            table: "cloudflare_images",
            column: "id",
            id: text,
            reason: "must be a UUID".to_owned(),
        }
        .into()
    })
}

/// Parses a time in a column of an image. SQLite stores times as text. This service writes RFC 3339. An app may write the format
/// of SQLite's `datetime()`, which is UTC without a suffix.
pub(super) fn parse_time(
    text: Option<String>,
    column: &'static str,
    id: Uuid,
) -> Result<Option<Timestamp>, OperationError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let time = Timestamp::parse_rfc3339(&text)
        .or_else(|_| Timestamp::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
        .map_err(|error| undecodable(column, id, error.to_string()))?;
    Ok(Some(time))
}

/// Returns rows as a JSON array. The statement splits the array with `json_each` or `jsonb_each`.
pub(super) fn json<T: Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("texts, numbers and booleans serialize to JSON")
}

/// Converts each item to a row, and returns the rows as a JSON array.
pub(super) fn json_rows<'a, T, R: Serialize>(
    items: &'a [T],
    row: impl FnMut(&'a T) -> R,
) -> String {
    json(&items.iter().map(row).collect::<Vec<R>>())
}
