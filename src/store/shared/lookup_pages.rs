//! Pages of images in the order of their creation, for the queue of lookups.

use sqlx::Row as _;

use super::columns::{
    Connection, FIRST_POSITION, Row, as_text, bind_now, bind_time, from_text, now,
    read_time_if_valid,
};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::store::lookups::{ImagePage, ImagePosition, Lookup, LookupKey};
use crate::store::session::OperationError;

/// The columns of [`Lookup`], from `cloudflare_images`.
macro_rules! lookup_columns {
    () => {
        concat!(
            as_text!("id"),
            " AS image_id, cloudflare_id, status, expires_at, 0 AS attempts"
        )
    };
}
pub(super) use lookup_columns;

/// The waiting images after the position in the first two parameters, up to the position in the last two, oldest first.
macro_rules! from_waiting_images {
    ($after_time:literal, $after_id:literal, $last_time:literal, $last_id:literal) => {
        concat!(
            " FROM cloudflare_images WHERE (created_at, id) > (",
            from_text!($after_time, "timestamptz"),
            ", ",
            from_text!($after_id, "uuid"),
            ") AND (created_at, id) <= (",
            from_text!($last_time, "timestamptz"),
            ", ",
            from_text!($last_id, "uuid"),
            ") AND status IN ('pending', 'draft') ORDER BY created_at, id"
        )
    };
}

/// Returns the position of the last image of a page.
pub(super) async fn read_page(
    tx: &mut Connection,
    page: &ImagePage<'_>,
) -> Result<Option<ImagePosition>, OperationError> {
    let (created_at, id) = start(page);
    let last = sqlx::query(concat!(
        "-- lookups_page
         SELECT ",
        as_text!("created_at"),
        " AS created_at, ",
        as_text!("id"),
        " AS id FROM (
             SELECT created_at, id FROM cloudflare_images
             WHERE (created_at, id) > (",
        from_text!("$1", "timestamptz"),
        ", ",
        from_text!("$2", "uuid"),
        ") AND created_at < $3 ORDER BY created_at, id LIMIT $4
         ) AS page
         ORDER BY page.created_at DESC, page.id DESC LIMIT 1",
    ))
    .bind(created_at)
    .bind(id)
    .bind(bind_time(page.created_before))
    .bind(i64::from(page.limit))
    .fetch_optional(tx)
    .await?;
    let Some(last) = last else { return Ok(None) };
    Ok(Some(ImagePosition {
        created_at: last.try_get("created_at")?,
        id: last.try_get("id")?,
    }))
}

fn start<'a>(page: &ImagePage<'a>) -> (&'a str, &'a str) {
    page.after.map_or(FIRST_POSITION, |position| {
        (&*position.created_at, &*position.id)
    })
}

pub(super) async fn queue_page(
    tx: &mut Connection,
    page: &ImagePage<'_>,
    last: &ImagePosition,
) -> Result<(), OperationError> {
    let (created_at, id) = start(page);
    sqlx::query(concat!(
        "-- lookups_queue
         INSERT INTO cloudflare_image_lookups (image_id, due_at)
         SELECT id, ",
        now!("$1"),
        from_waiting_images!("$2", "$3", "$4", "$5"),
        " ON CONFLICT (image_id) DO NOTHING",
    ))
    .bind(bind_now(page.now))
    .bind(created_at)
    .bind(id)
    .bind(&last.created_at)
    .bind(&last.id)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn read_waiting(
    connection: &mut Connection,
    page: &ImagePage<'_>,
    last: &ImagePosition,
) -> Result<Vec<Lookup>, OperationError> {
    let (created_at, id) = start(page);
    let rows = sqlx::query(concat!(
        "-- lookups_peek
         SELECT ",
        lookup_columns!(),
        from_waiting_images!("$1", "$2", "$3", "$4"),
    ))
    .bind(created_at)
    .bind(id)
    .bind(&last.created_at)
    .bind(&last.id)
    .fetch_all(connection)
    .await?;
    let mut lookups = Vec::with_capacity(rows.len());
    for row in &rows {
        lookups.extend(read_lookup(LookupKey(row.try_get("image_id")?), row)?);
    }
    Ok(lookups)
}

/// Returns the lookup in a row. `None` if there is nothing to look up: the row of the image is gone, or its id or status is invalid.
pub(super) fn read_lookup(key: LookupKey, row: &Row) -> Result<Option<Lookup>, OperationError> {
    let cloudflare_id: Option<String> = row.try_get("cloudflare_id")?;
    let status: Option<String> = row.try_get("status")?;
    let status = status.and_then(|status| Status::from_name(&status));
    let cloudflare_id = cloudflare_id.and_then(|id| CloudflareId::parse(&id).ok());
    let (Some(cloudflare_id), Some(status)) = (cloudflare_id, status) else {
        return Ok(None);
    };
    let attempts: i32 = row.try_get("attempts")?;
    Ok(Some(Lookup {
        key,
        cloudflare_id,
        status,
        expires_at: read_time_if_valid(row, "expires_at"),
        attempts: attempts.unsigned_abs(),
    }))
}
