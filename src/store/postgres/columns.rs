//! Columns in Postgres: binding values, decoding rows, and the names that `shared` imports.

use std::time::Duration;

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgRow, PgTypeInfo, PgValueRef};
use sqlx::{Decode, FromRow, Postgres as Database, Row as _, Type};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::clock::ClockReading;
use crate::domain::image::Image;
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};
use crate::store::inbox::columns::{DetailColumns, ImageColumns, StateColumns, undecodable};
use crate::store::session::OperationError;
use crate::store::transfer::ExportedImage;

pub(super) use super::connection::Connection;
pub(super) use super::session::Postgres as Backend;
pub(super) use sqlx::postgres::PgRow as Row;

/// The statement of [`ImageCatalog::add`](crate::store::ImageCatalog::add). Postgres needs the cast to `jsonb`.
pub(super) const CATALOG_ADD: &str = "-- catalog_add
     INSERT INTO cloudflare_images
         (cloudflare_id, filename, creator, metadata, created_at, updated_at, expires_at, require_signed_urls)
     VALUES ($1, $2, $3, $4::jsonb, $5, $5, $6, $7)
     ON CONFLICT (cloudflare_id) DO NOTHING";

/// The statement that deletes up to `$2` upload requests from before `$1`. Several replicas may delete at the same time, so locked rows are skipped.
pub(super) const UPLOAD_REQUESTS_DELETE_OLD: &str = "-- upload_requests_delete_old
     DELETE FROM cloudflare_upload_requests WHERE id IN (
         SELECT id FROM cloudflare_upload_requests WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
     )";

/// The end of a statement that deletes the deliveries in `selected`, their attempts, and events without other deliveries. A trigger
/// or a policy can keep a delivery, which keeps its attempts and its event. On SQLite, a trigger deletes the last two.
macro_rules! delete_selected {
    () => {
        ", deleted AS (
             DELETE FROM relay_deliveries WHERE id IN (SELECT id FROM selected) RETURNING id, event_id
         ), attempts AS (
             DELETE FROM relay_attempts WHERE delivery_id IN (SELECT id FROM deleted)
         ), events AS (
             DELETE FROM relay_events AS event WHERE id IN (SELECT event_id FROM deleted) AND NOT EXISTS (
                 SELECT FROM relay_deliveries AS other
                 WHERE other.event_id = event.id AND other.id NOT IN (SELECT id FROM deleted)
                 -- Without OFFSET, the planner may read the whole table instead of the index.
                 OFFSET 0
             )
         )
         SELECT FROM deleted"
    };
}

/// The statement that deletes old deliveries. It returns an empty row for each.
pub(super) const RETENTION_DELIVERIES_DELETE: &str = concat!(
    "-- retention_deliveries_delete
     WITH selected AS MATERIALIZED (
         SELECT id FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL FOR UPDATE
     )",
    delete_selected!()
);

/// The columns of [`StateColumns`]. `jsonb` is cast to text, because the shared decoding needs text.
macro_rules! state_columns {
    () => {
        concat!(
            "id, cloudflare_id, status, status_at, uploaded_at, error, details_at, ",
            $crate::store::inbox::columns::detail_columns!("::text")
        )
    };
}
pub(super) use state_columns;

/// The current time of leases and due times: the database's clock, unless the parameter has the time of a test's clock.
macro_rules! now {
    ($parameter:literal) => {
        concat!("COALESCE(", $parameter, ", now())")
    };
}
pub(super) use now;

/// Converts a reading for binding to the parameter of [`now`].
pub(super) fn bind_now(now: ClockReading) -> Option<OffsetDateTime> {
    now.manual_time().map(bind_time)
}

/// The ids in the parameter.
macro_rules! selected_ids {
    ($parameter:literal) => {
        concat!("SELECT UNNEST(", $parameter, "::bigint[])")
    };
}
pub(super) use selected_ids;

/// Converts ids for binding to the parameter of [`selected_ids`].
pub(super) fn bind_ids(ids: impl Iterator<Item = i64>) -> Vec<i64> {
    ids.collect()
}

/// Converts a duration for binding, in microseconds.
pub(super) fn bind_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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

/// The time that is a duration before now: the parameter of [`now`], and the parameter of the duration.
macro_rules! ago {
    ($now:literal, $duration:literal) => {
        concat!(
            "(COALESCE(",
            $now,
            ", now()) - ",
            $duration,
            " * interval '1 microsecond')"
        )
    };
}
pub(super) use ago;

/// The time that is a duration after now: the parameter of [`now`], and the parameter of the duration.
macro_rules! later {
    ($now:literal, $duration:literal) => {
        concat!(
            "(COALESCE(",
            $now,
            ", now()) + ",
            $duration,
            " * interval '1 microsecond')"
        )
    };
}
pub(super) use later;

/// Converts a duration for binding to the second parameter of [`later`].
pub(super) fn bind_later(_now: ClockReading, duration: Duration) -> i64 {
    bind_micros(duration)
}

/// The current time in microseconds since 1970, as [`now`].
macro_rules! now_micros {
    ($parameter:literal) => {
        concat!(
            "COALESCE(",
            $parameter,
            ", CAST(extract(epoch FROM now()) * 1000000 AS bigint))"
        )
    };
}
pub(super) use now_micros;

/// Converts a reading for binding to the parameter of [`now_micros`].
pub(super) fn bind_now_micros(now: ClockReading) -> Option<i64> {
    now.manual_time().map(Timestamp::unix_micros)
}

/// The parameter with a text, as a value of this type.
macro_rules! from_text {
    ($parameter:literal, $type:literal) => {
        concat!($parameter, "::", $type)
    };
}
pub(super) use from_text;

/// A value as text, which [`from_text`] turns back.
macro_rules! as_text {
    ($value:literal) => {
        concat!($value, "::text")
    };
}
pub(super) use as_text;

/// The lock on rows that a statement is about to change. It skips rows that another process has locked.
macro_rules! skip_locked {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}
pub(super) use skip_locked;

/// The position before every image: a time and an id.
pub(super) const FIRST_POSITION: (&str, &str) =
    ("-infinity", "00000000-0000-0000-0000-000000000000");

/// The UUIDs in the parameter.
macro_rules! selected_uuids {
    ($parameter:literal) => {
        concat!("SELECT UNNEST(", $parameter, "::uuid[])")
    };
}
pub(super) use selected_uuids;

/// The texts in the parameter.
macro_rules! selected_texts {
    ($parameter:literal) => {
        concat!("SELECT UNNEST(", $parameter, "::text[])")
    };
}
pub(super) use selected_texts;

/// Converts texts for binding to the parameter of [`selected_texts`] or [`selected_uuids`].
pub(super) fn bind_texts<'a>(ids: &[&'a str]) -> Vec<&'a str> {
    ids.to_vec()
}

/// Converts a duration for binding to the second parameter of [`ago`].
pub(super) fn bind_ago(_now: ClockReading, duration: Duration) -> i64 {
    bind_micros(duration)
}

/// The statement that deletes the selected deliveries. It returns an empty row for each.
pub(super) const DELIVERIES_DELETE: &str = concat!(
    "-- deliveries_delete
     WITH selected AS MATERIALIZED (
         SELECT id FROM relay_deliveries WHERE id IN (",
    unsent_ids!(),
    ") AND (status <> 'leased' OR due_at <= ",
    now!("$2"),
    ") FOR UPDATE
     )",
    delete_selected!()
);

/// The columns of [`ImageColumns`].
macro_rules! image_columns {
    () => {
        concat!(
            $crate::store::postgres::columns::state_columns!(),
            ", metadata::text AS metadata, created_at, updated_at"
        )
    };
}
pub(super) use image_columns;

/// The rows of an import in a parameter, as a table with the columns of
/// [`imported_columns`](crate::store::transfer::rows::imported_columns).
macro_rules! imported_rows {
    ($parameter:literal) => {
        concat!(
            "(SELECT * FROM json_to_recordset(",
            $parameter,
            "::json) AS item (
                 id uuid, cloudflare_id text, status text, status_at timestamptz, uploaded_at timestamptz, error text, filename text,
                 creator text, require_signed_urls boolean, variants jsonb, cloudflare_metadata jsonb, details_at text,
                 metadata jsonb, user_id bigint, original_filename text, content_type text, file_size bigint, width bigint,
                 height bigint, format text, created_at timestamptz, updated_at timestamptz, expires_at timestamptz,
                 last_referenced_at timestamptz
             ))"
        )
    };
}
pub(super) use imported_rows;

/// The columns of [`ExportedImage`].
macro_rules! exported_columns {
    () => {
        concat!(
            $crate::store::postgres::columns::image_columns!(),
            ", json_build_array(",
            $crate::store::inbox::columns::extra_columns!("NULL"),
            ")::text AS extra_columns"
        )
    };
}
pub(super) use exported_columns;

/// The position of an export in a parameter.
macro_rules! page_position {
    ($parameter:literal) => {
        concat!($parameter, "::uuid")
    };
}
pub(super) use page_position;

/// Reads the position of a row with the [`exported_columns`].
pub(super) fn read_position(row: &PgRow) -> Result<String, sqlx::Error> {
    let id: Uuid = row.try_get("id")?;
    Ok(id.to_string())
}

/// Decodes a row with the [`exported_columns`]. Returns its size in bytes too.
pub(super) fn read_exported(row: &PgRow) -> Result<(ExportedImage, usize), OperationError> {
    let extra_columns: &str = row.try_get("extra_columns")?;
    Ok(ExportedImage::decode(read_image(row)?, extra_columns)?)
}

/// Converts a time for binding.
pub(super) fn bind_time(time: Timestamp) -> OffsetDateTime {
    time.to_offset_date_time()
}

/// Reads a time from a column that only this service writes.
pub(super) fn read_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    let time: Option<PgTimestamp> = row.try_get(column)?;
    let time = time.map(PgTimestamp::timestamp).transpose();
    time.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Reads a time from a column that another program may have written. `None` if it is absent, or if [`Timestamp`] cannot represent it.
pub(super) fn read_time_if_valid(row: &PgRow, column: &str) -> Option<Timestamp> {
    let time: Option<PgTimestamp> = row.try_get(column).ok()?;
    time?.timestamp().ok()
}

/// Reads a number of rows.
pub(super) fn read_count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let count: i64 = row.try_get(column)?;
    Ok(count.unsigned_abs())
}

/// Decodes an image from a row with the [`image_columns`].
pub(super) fn read_image(row: &PgRow) -> Result<Image, OperationError> {
    let columns = ImageColumns {
        state: read_state(row)?,
        metadata: row.try_get("metadata")?,
        created_at: read_image_time(row, "created_at")?,
        updated_at: read_image_time(row, "updated_at")?,
    };
    Ok(columns.decode()?)
}

/// Reads the state of an image from a row with the [`state_columns`].
pub(super) fn read_state(row: &PgRow) -> Result<StateColumns, OperationError> {
    Ok(StateColumns {
        id: row.try_get("id")?,
        cloudflare_id: row.try_get("cloudflare_id")?,
        status: row.try_get("status")?,
        status_at: read_image_time(row, "status_at")?,
        uploaded_at: read_image_time(row, "uploaded_at")?,
        error: row.try_get("error")?,
        details: DetailColumns::from_row(row)?.into(),
        details_at: row.try_get("details_at")?,
        extra_columns: None,
    })
}

fn read_image_time(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>, OperationError> {
    let Some(time) = row.try_get::<Option<PgTimestamp>, _>(column)? else {
        return Ok(None);
    };
    let id = row.try_get("id")?;
    let time = time
        .timestamp()
        .map_err(|error| undecodable(column, id, error.to_string()))?;
    Ok(Some(time))
}

/// Collects one column of all rows, for binding as an array.
pub(super) fn column<'a, T, C>(rows: &'a [T], read: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(read).collect()
}

/// A `timestamptz` in Postgres's binary format: microseconds since 2000. Decoding to `OffsetDateTime` would panic on `infinity`.
struct PgTimestamp(i64);

impl PgTimestamp {
    /// 2000-01-01T00:00:00Z, in microseconds since 1970.
    const EPOCH: i64 = 946_684_800_000_000;

    fn timestamp(self) -> Result<Timestamp, InvalidTimestamp> {
        Timestamp::from_unix_micros(self.0.checked_add(Self::EPOCH).ok_or(InvalidTimestamp)?)
    }
}

impl Type<Database> for PgTimestamp {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Database>>::type_info()
    }
}

impl Decode<'_, Database> for PgTimestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self(i64::from_be_bytes(bytes)))
    }
}
