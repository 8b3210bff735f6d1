//! Recording notifications in Postgres: a handful of set-based statements, however many notifications there are.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection, Postgres as Database, Transaction};

use super::{Postgres, read_state, state_columns};
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Notification, Recorded, UnknownImages};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{
    ChangedImage, Known, LogEntry, cloudflare_ids, decide, log_data, undated,
};
use crate::store::row::{StateColumns, StoredImage, details_at};
use crate::store::{Failure, Inbox, Lent, StoreError};

#[async_trait]
impl Inbox for Postgres {
    async fn record(&self, notifications: &[Notification]) -> Result<Vec<Recorded>, StoreError> {
        self.within("recording notifications", async {
            loop {
                let mut lent = Lent::from(&self.pool).await?;
                let mut tx = match lent.connection.begin().await {
                    Ok(tx) => tx,
                    // The database has restarted since the connection was used last. Nothing was sent yet, so the next one will
                    // do; each that is lost is closed, and so the loop ends.
                    Err(error) if is_lost(&error) => continue,
                    Err(error) => return Err(error.into()),
                };
                let recorded = record(&mut tx, notifications, self.unknown_images).await?;
                tx.commit().await?;
                lent.give_back();
                return Ok(recorded);
            }
        })
        .await
    }
}

/// Whether the error says that the connection is of no use any more. 57P is Postgres's class for an operator's intervention:
/// it was shut down, or is starting.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

async fn record(
    tx: &mut Transaction<'_, Database>,
    notifications: &[Notification],
    unknown_images: UnknownImages,
) -> Result<Vec<Recorded>, Failure> {
    let ids = cloudflare_ids(notifications);
    let mut inserted = HashSet::new();
    if unknown_images == UnknownImages::Create
        && let Some(first) = notifications.first()
    {
        inserted = insert_missing(tx, &ids, first.received_at).await?;
    }
    let images = if ids.is_empty() {
        Vec::new()
    } else {
        lock_images(tx, &ids).await?
    };
    let seen = find_seen(tx, &images, undated(notifications)).await?;

    let decision = decide(
        notifications,
        Known {
            images,
            inserted,
            seen,
        },
    );

    if !decision.changed.is_empty() {
        update_images(tx, &decision.changed).await?;
    }
    if !decision.logs.is_empty() {
        insert_logs(tx, &decision.logs).await?;
    }
    Ok(decision.recorded)
}

/// Comes before any lock is taken, and in the order of the ids, so that two replicas that insert the same ids wait for each
/// other in one direction only.
async fn insert_missing(
    connection: &mut PgConnection,
    ids: &[&CloudflareId],
    now: Timestamp,
) -> Result<HashSet<CloudflareId>, Failure> {
    let insertable: Vec<&str> = ids
        .iter()
        .filter(|id| id.fits_an_index())
        .map(|id| id.as_str())
        .collect();
    if insertable.is_empty() {
        return Ok(HashSet::new());
    }
    let inserted: HashSet<String> = sqlx::query_scalar(
        "-- inbox_insert_missing
         INSERT INTO cloudflare_images (cloudflare_id, created_at, updated_at)
         SELECT cloudflare_id, $2, $2 FROM UNNEST($1::text[]) WITH ORDINALITY AS told (cloudflare_id, position)
         WHERE NOT EXISTS (SELECT FROM cloudflare_images AS image WHERE image.cloudflare_id = told.cloudflare_id)
         ORDER BY position
         ON CONFLICT (cloudflare_id) DO NOTHING
         RETURNING cloudflare_id",
    )
    .bind(insertable)
    .bind(now.to_offset_date_time())
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    Ok(ids
        .iter()
        .filter(|id| inserted.contains(id.as_str()))
        .map(|id| CloudflareId::clone(id))
        .collect())
}

/// Locks the rows in the order of the ids, so that replicas with crossing batches never deadlock.
async fn lock_images(
    connection: &mut PgConnection,
    ids: &[&CloudflareId],
) -> Result<Vec<StoredImage>, Failure> {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    sqlx::query(concat!(
        "-- inbox_lock_images
         SELECT ",
        state_columns!(),
        " FROM cloudflare_images WHERE cloudflare_id = ANY($1) ORDER BY cloudflare_id COLLATE \"C\" FOR NO KEY UPDATE",
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| Ok(read_state(row).map(StateColumns::decode)??))
    .collect()
}

/// Which of these notifications the audit trail has already.
async fn find_seen(
    connection: &mut PgConnection,
    images: &[StoredImage],
    undated: Vec<(&CloudflareId, &Json)>,
) -> Result<HashSet<(CloudflareId, Json)>, Failure> {
    let find = |id: &CloudflareId| {
        images
            .iter()
            .find(|image| image.cloudflare_id == *id)
            .map(|image| image.id)
    };
    let candidates: Vec<_> = undated
        .into_iter()
        .filter_map(|(id, payload)| Some((find(id)?, id, payload)))
        .collect();
    if candidates.is_empty() {
        return Ok(HashSet::new());
    }
    let positions: Vec<i64> = sqlx::query_scalar(
        "-- inbox_find_seen
         SELECT position FROM UNNEST($1::uuid[], $2::text[]) WITH ORDINALITY AS told (image_id, data, position)
         WHERE EXISTS (
             SELECT FROM cloudflare_image_logs AS log WHERE log.image_id = told.image_id AND log.data = told.data::jsonb
         )",
    )
    .bind(column(&candidates, |(image_id, _, _)| *image_id))
    .bind(column(&candidates, |(_, _, payload)| log_data(payload)))
    .fetch_all(connection)
    .await?;
    let seen = positions
        .into_iter()
        .filter_map(|position| candidates.get(usize::try_from(position - 1).ok()?));
    Ok(seen
        .map(|(_, id, payload)| (CloudflareId::clone(id), Json::clone(payload)))
        .collect())
}

async fn update_images(
    connection: &mut PgConnection,
    images: &[ChangedImage],
) -> Result<(), Failure> {
    let details_at: Vec<String> = images
        .iter()
        .map(|image| details_at(&image.state.details))
        .collect();
    let updated = sqlx::query(
        "-- inbox_update_images
         UPDATE cloudflare_images AS image
         SET status = told.status, status_at = told.status_at, uploaded_at = told.uploaded_at, error = told.error,
             filename = told.filename, creator = told.creator, require_signed_urls = told.require_signed_urls,
             variants = COALESCE(told.variants::jsonb, image.variants),
             cloudflare_metadata = COALESCE(told.cloudflare_metadata::jsonb, image.cloudflare_metadata),
             details_at = told.details_at::jsonb, updated_at = told.updated_at
         FROM UNNEST(
             $1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::boolean[],
             $9::text[], $10::text[], $11::text[], $12::timestamptz[]
         ) AS told (id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls,
             variants, cloudflare_metadata, details_at, updated_at)
         WHERE image.id = told.id",
    )
    .bind(column(images, |image| image.id))
    .bind(column(images, |image| image.state.status.as_str()))
    .bind(column(images, |image| image.state.status_at.map(Timestamp::to_offset_date_time)))
    .bind(column(images, |image| image.state.uploaded_at.map(Timestamp::to_offset_date_time)))
    .bind(column(images, |image| image.state.error.as_str()))
    .bind(column(images, |image| image.state.details.filename.value.as_str()))
    .bind(column(images, |image| image.state.details.creator.value.as_str()))
    .bind(column(images, |image| image.state.details.require_signed_urls.value))
    .bind(column(images, |image| {
        let variants = &image.state.details.variants.value;
        image.tells.variants.then_some(variants.as_str())
    }))
    .bind(column(images, |image| {
        let metadata = &image.state.details.cloudflare_metadata.value;
        image.tells.cloudflare_metadata.then_some(metadata.as_str())
    }))
    .bind(details_at)
    .bind(column(images, |image| image.updated_at.to_offset_date_time()))
    .execute(connection)
    .await?
    .rows_affected();

    // The rows are locked, so each must be there. A write that hits fewer would acknowledge what is not stored.
    if updated == images.len() as u64 {
        Ok(())
    } else {
        Err(Failure::Database(sqlx::Error::RowNotFound))
    }
}

async fn insert_logs(connection: &mut PgConnection, logs: &[LogEntry]) -> Result<(), Failure> {
    sqlx::query(
        "-- inbox_insert_logs
         INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
         SELECT image_id, event_type, message, data::jsonb, timestamp
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
             AS entry (image_id, event_type, message, data, timestamp)",
    )
    .bind(column(logs, |entry| {
        entry.image.as_ref().map(|(id, _)| *id)
    }))
    .bind(column(logs, |entry| entry.event_type))
    .bind(column(logs, |entry| entry.message.as_str()))
    .bind(column(logs, |entry| entry.data.as_str()))
    .bind(column(logs, |entry| entry.timestamp.to_offset_date_time()))
    .execute(connection)
    .await?;
    Ok(())
}

/// One column of many rows, as `UNNEST` takes it.
fn column<'a, T, C>(rows: &'a [T], read: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(read).collect()
}
