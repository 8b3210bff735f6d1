//! Recording notifications in SQLite: prepared statements, row by row, in one transaction. There is no network between us
//! and the rows, so sets would gain nothing.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::{Connection, Sqlite as Database, SqliteConnection, Transaction};

use super::{Sqlite, read_state, state_columns};
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Notification, Recorded, UnknownImages};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{
    ChangedImage, Known, LogEntry, cloudflare_ids, decide, log_data, undated,
};
use crate::store::row::{StoredImage, details_at};
use crate::store::{Failure, Inbox, Lent, StoreError, within};

#[async_trait]
impl Inbox for Sqlite {
    async fn record(&self, notifications: &[Notification]) -> Result<Vec<Recorded>, StoreError> {
        within(
            &self.place,
            self.deadline,
            "recording notifications",
            async {
                // IMMEDIATE takes the write lock before anything is read, so that what is read cannot change until the commit.
                let mut lent = Lent::from(&self.writer).await?;
                let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
                let recorded = record(&mut tx, notifications, self.unknown_images).await?;
                tx.commit().await?;
                lent.give_back();
                Ok(recorded)
            },
        )
        .await
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
        for id in ids.iter().filter(|id| id.fits_an_index()) {
            if insert_missing(tx, id, first.received_at).await? {
                inserted.insert(CloudflareId::clone(id));
            }
        }
    }
    let mut images = Vec::with_capacity(ids.len());
    for id in ids {
        images.extend(read_image(tx, id).await?);
    }
    let mut seen = HashSet::new();
    for (id, payload) in undated(notifications) {
        if is_seen(tx, id, payload).await? {
            seen.insert((id.clone(), payload.clone()));
        }
    }

    let decision = decide(
        notifications,
        Known {
            images,
            inserted,
            seen,
        },
    );

    for image in &decision.changed {
        update_image(tx, image).await?;
    }
    for entry in &decision.logs {
        insert_log(tx, entry).await?;
    }
    Ok(decision.recorded)
}

/// Whether the row was missing.
async fn insert_missing(
    connection: &mut SqliteConnection,
    id: &CloudflareId,
    now: Timestamp,
) -> Result<bool, Failure> {
    let inserted = sqlx::query(
        "-- inbox_insert_missing
         INSERT INTO cloudflare_images (cloudflare_id, created_at, updated_at) VALUES ($1, $2, $2)
         ON CONFLICT (cloudflare_id) DO NOTHING",
    )
    .bind(id.as_str())
    .bind(now.to_string())
    .execute(connection)
    .await?
    .rows_affected();
    Ok(inserted == 1)
}

/// Whether the audit trail has this notification already.
async fn is_seen(
    connection: &mut SqliteConnection,
    id: &CloudflareId,
    payload: &Json,
) -> Result<bool, Failure> {
    Ok(sqlx::query_scalar(
        "-- inbox_find_seen
         SELECT EXISTS (
             SELECT 1 FROM cloudflare_image_logs
             WHERE image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = $1) AND data = $2
         )",
    )
    .bind(id.as_str())
    .bind(log_data(payload))
    .fetch_one(connection)
    .await?)
}

async fn read_image(
    connection: &mut SqliteConnection,
    id: &CloudflareId,
) -> Result<Option<StoredImage>, Failure> {
    let row = sqlx::query(concat!(
        "-- inbox_read_image
         SELECT ",
        state_columns!(),
        " FROM cloudflare_images WHERE cloudflare_id = $1",
    ))
    .bind(id.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref()
        .map(|row| Ok(read_state(row)?.decode()?))
        .transpose()
}

/// The row is found by its `cloudflare_id`: a UUID in `id` can be spelled in several ways, and stays as the app spelled it.
async fn update_image(
    connection: &mut SqliteConnection,
    image: &ChangedImage,
) -> Result<(), Failure> {
    let (state, details) = (&image.state, &image.state.details);
    let updated = sqlx::query(
        "-- inbox_update_image
         UPDATE cloudflare_images
         SET status = $2, status_at = $3, uploaded_at = $4, error = $5, filename = $6, creator = $7, require_signed_urls = $8,
             variants = COALESCE($9, variants), cloudflare_metadata = COALESCE($10, cloudflare_metadata),
             details_at = $11, updated_at = $12
         WHERE cloudflare_id = $1",
    )
    .bind(image.cloudflare_id.as_str())
    .bind(state.status.as_str())
    .bind(state.status_at.map(|at| at.to_string()))
    .bind(state.uploaded_at.map(|at| at.to_string()))
    .bind(&state.error)
    .bind(&details.filename.value)
    .bind(&details.creator.value)
    .bind(details.require_signed_urls.value)
    .bind(image.tells.variants.then_some(details.variants.value.as_str()))
    .bind(image.tells.cloudflare_metadata.then_some(details.cloudflare_metadata.value.as_str()))
    .bind(details_at(details))
    .bind(image.updated_at.to_string())
    .execute(connection)
    .await?
    .rows_affected();

    // The write lock is held, so the row must be there. A write that hits none would acknowledge what is not stored.
    if updated == 1 {
        Ok(())
    } else {
        Err(Failure::Database(sqlx::Error::RowNotFound))
    }
}

async fn insert_log(connection: &mut SqliteConnection, entry: &LogEntry) -> Result<(), Failure> {
    sqlx::query(
        "-- inbox_insert_log
         INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
         VALUES ((SELECT id FROM cloudflare_images WHERE cloudflare_id = $1), $2, $3, $4, $5)",
    )
    .bind(entry.image.as_ref().map(|(_, id)| id.as_str()))
    .bind(entry.event_type)
    .bind(&entry.message)
    .bind(&entry.data)
    .bind(entry.timestamp.to_string())
    .execute(connection)
    .await?;
    Ok(())
}
