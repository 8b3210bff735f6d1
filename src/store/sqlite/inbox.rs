//! Recording notifications in SQLite. A set of rows is a JSON array of arrays, which `json_each` takes apart: each statement is a
//! trip to the thread on which SQLite runs, and so costs more than most rows do.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::{Connection, SqliteConnection};

use super::{Sqlite, parse_time, parse_uuid, state_columns};
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{ChangedImage, LogEntry};
use crate::store::event::rest_columns;
use crate::store::recording::{Rows, Undated, Written, record};
use crate::store::row::{StateColumns, details_at};
use crate::store::{Failure, Inbox, Lent, StoreError, within};

#[async_trait]
impl Inbox for Sqlite {
    async fn record(
        &self,
        notifications: &[Arc<Notification>],
    ) -> Result<Vec<Outcome>, StoreError> {
        self.file.check(&self.place)?;
        within(
            &self.place,
            self.deadline,
            "recording notifications",
            async {
                // IMMEDIATE takes the write lock before anything is read, so that what is read cannot change until the commit.
                let mut lent = Lent::from(&self.writer).await?;
                let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
                let (recorded, bells) = record(&mut *tx, notifications, &self.recording).await?;
                tx.commit().await?;
                bells.ring();
                lent.give_back();
                self.checkpoints.count(notifications.len());
                Ok(recorded)
            },
        )
        .await
    }
}

impl Rows for SqliteConnection {
    async fn insert_missing(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> Result<Vec<String>, Failure> {
        Ok(sqlx::query_scalar(
            // Without a WHERE, ON would be read as part of a join.
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

    /// The write lock is held; nothing is left to be locked. All rows come as one: each would be a trip from SQLite's thread to
    /// this one.
    async fn lock_images(
        &mut self,
        ids: &[&str],
        with_rest: bool,
    ) -> Result<Vec<StateColumns>, Failure> {
        let images: String = sqlx::query_scalar(concat!(
            "-- inbox_lock_images
             SELECT json_group_array(json_array(",
            state_columns!(),
            ", CASE WHEN $2 THEN json_array(",
            rest_columns!("CASE WHEN json_valid(metadata) THEN json(metadata) END"),
            ") END)) FROM cloudflare_images WHERE cloudflare_id IN (SELECT value FROM json_each($1))",
        ))
        .bind(json(ids))
        .bind(with_rest)
        .fetch_one(self)
        .await?;
        let images: Vec<JsonColumns> =
            serde_json::from_str(&images).map_err(|_| sqlx::Error::Decode(WrongType.into()))?;
        images.into_iter().map(JsonColumns::read).collect()
    }

    async fn find_seen(&mut self, undated: &[Undated<'_>]) -> Result<Vec<usize>, Failure> {
        let told: Vec<_> = undated
            .iter()
            .map(|undated| (undated.cloudflare_id.as_str(), &undated.data))
            .collect();
        let positions: Vec<i64> = sqlx::query_scalar(
            "-- inbox_find_seen
             SELECT told.key FROM jsonb_each($1) AS told
             WHERE EXISTS (
                 SELECT 1 FROM cloudflare_image_logs
                 WHERE image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = told.value ->> 0) AND data = told.value ->> 1
             )",
        )
        .bind(json(&told))
        .fetch_all(self)
        .await?;
        Ok(positions
            .into_iter()
            .filter_map(|position| usize::try_from(position).ok())
            .collect())
    }

    async fn write(
        &mut self,
        images: &[ChangedImage],
        logs: &[LogEntry],
        with_log_ids: bool,
    ) -> Result<Written, Failure> {
        let mut written = Written::default();
        if !images.is_empty() {
            written.images = update_images(self, images).await?;
        }
        if !logs.is_empty() {
            written.log_ids = insert_logs(self, logs, with_log_ids).await?;
        }
        Ok(written)
    }
}

/// A row is found by its `cloudflare_id`: a UUID in `id` can be spelled in several ways, and stays as the app spelled it.
async fn update_images(
    connection: &mut SqliteConnection,
    images: &[ChangedImage],
) -> Result<u64, Failure> {
    let told: Vec<_> = images
        .iter()
        .map(|image| {
            let (state, details) = (&image.state, &image.state.details);
            (
                image.cloudflare_id.as_str(),
                state.status.as_str(),
                state.status_at.map(|at| at.to_string()),
                state.uploaded_at.map(|at| at.to_string()),
                &state.error,
                &details.filename.value,
                &details.creator.value,
                details.require_signed_urls.value,
                image.variants(),
                image.cloudflare_metadata(),
                details_at(details),
                image.updated_at.to_string(),
            )
        })
        .collect();
    Ok(sqlx::query(
        "-- inbox_write
         UPDATE cloudflare_images
         SET status = told.value ->> 1, status_at = told.value ->> 2, uploaded_at = told.value ->> 3, error = told.value ->> 4,
             filename = told.value ->> 5, creator = told.value ->> 6, require_signed_urls = told.value ->> 7,
             variants = COALESCE(told.value ->> 8, variants),
             cloudflare_metadata = COALESCE(told.value ->> 9, cloudflare_metadata),
             details_at = told.value ->> 10, updated_at = told.value ->> 11
         FROM jsonb_each($1) AS told
         WHERE cloudflare_id = told.value ->> 0",
    )
    .bind(json(&told))
    .execute(connection)
    .await?
    .rows_affected())
}

/// The ids come row by row, each a trip from SQLite's thread, which only those pay who want to know them.
async fn insert_logs(
    connection: &mut SqliteConnection,
    logs: &[LogEntry],
    with_ids: bool,
) -> Result<Vec<i64>, Failure> {
    let told: Vec<_> = logs
        .iter()
        .map(|entry| {
            (
                entry.image.as_ref().map(|(_, id)| id.as_str()),
                entry.event_type,
                &entry.message,
                &entry.data,
                entry.timestamp.to_string(),
            )
        })
        .collect();
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
        let inserted = sqlx::query(inbox_write!("")).bind(json(&told));
        inserted.execute(connection).await?;
        return Ok(Vec::new());
    }
    let inserted = sqlx::query_scalar(inbox_write!(" RETURNING id")).bind(json(&told));
    let mut ids: Vec<i64> = inserted.fetch_all(connection).await?;
    // They may be returned in any order; they were given in the order of the entries.
    ids.sort_unstable();
    Ok(ids)
}

/// The columns of [`StateColumns`], as `json_array` writes them.
#[derive(Deserialize)]
struct JsonColumns(
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    String,
    String,
    i64,
    String,
    String,
    String,
    Option<Box<RawValue>>,
);

/// A row has a value of a type that its column is not meant for.
#[derive(Debug, thiserror::Error)]
#[error("a row of cloudflare_images has text where a number belongs, or the other way round")]
struct WrongType;

impl JsonColumns {
    fn read(self) -> Result<StateColumns, Failure> {
        let id = parse_uuid(self.0)?;
        Ok(StateColumns {
            id,
            cloudflare_id: self.1,
            status: self.2,
            status_at: parse_time(self.3, "status_at", id)?,
            uploaded_at: parse_time(self.4, "uploaded_at", id)?,
            error: self.5,
            filename: self.6,
            creator: self.7,
            require_signed_urls: self.8 != 0,
            variants: self.9,
            cloudflare_metadata: self.10,
            details_at: self.11,
            rest: self.12.map(|rest| Box::<str>::from(rest).into()),
        })
    }
}

pub(super) fn json<T: Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("texts, numbers and truths are JSON")
}
