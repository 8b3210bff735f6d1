//! Recording notifications in Postgres. A set of rows is an array for each column: `UNNEST` costs the server as little as `COPY`
//! does, and one round trip less.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection, Row};

use super::{Postgres, read_state, state_columns};
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{ChangedImage, LogEntry};
use crate::store::event::rest_columns;
use crate::store::recording::{Rows, Undated, Written, record};
use crate::store::row::{StateColumns, details_at};
use crate::store::{Failure, Inbox, Lent, StoreError};

#[async_trait]
impl Inbox for Postgres {
    async fn record(
        &self,
        notifications: &[Arc<Notification>],
    ) -> Result<Vec<Outcome>, StoreError> {
        self.within("recording notifications", async {
            loop {
                let mut lent = match self.kept.take() {
                    Some(kept) => kept,
                    None => Lent::from(&self.pool).await?,
                };
                let mut tx = match lent.connection.begin().await {
                    Ok(tx) => tx,
                    // The database has restarted since the connection was used last. Nothing was sent yet, so the next one will
                    // do; each that is lost is closed, and so the loop ends.
                    Err(error) if is_lost(&error) => continue,
                    Err(error) => return Err(error.into()),
                };
                let (recorded, bells) = record(&mut *tx, notifications, &self.recording).await?;
                tx.commit().await?;
                bells.ring();
                self.kept.put(lent);
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

/// Inserts the columns of `$13` to `$17` as rows of the trail, one after another, so that their ids stand in their order; and rewrites the
/// images of `$1` from the columns of `$2` to `$12`. Both can return something, for what comes after them.
///
/// `UNNEST` stands in the list of columns, where the arrays advance together, row by row. In `FROM` each of them would first be copied into
/// a table of its own. What a `WITH` inserts is inserted whether or not anything reads it.
macro_rules! inbox_write {
    ($after_insert:literal, $after_update:literal) => {
        concat!(
            "-- inbox_write
             WITH logged AS (
                 INSERT INTO cloudflare_image_logs (image_id, event_type, message, data, timestamp)
                 SELECT UNNEST($13::uuid[]), UNNEST($14::text[]), UNNEST($15::text[]), UNNEST($16::text[])::jsonb,
                     UNNEST($17::timestamptz[])
                 ",
            $after_insert,
            "
             UPDATE cloudflare_images AS image
             SET status = told.status, status_at = told.status_at, uploaded_at = told.uploaded_at, error = told.error,
                 filename = told.filename, creator = told.creator, require_signed_urls = told.require_signed_urls,
                 variants = COALESCE(told.variants::jsonb, image.variants),
                 cloudflare_metadata = COALESCE(told.cloudflare_metadata::jsonb, image.cloudflare_metadata),
                 details_at = told.details_at, updated_at = told.updated_at
             FROM (
                 SELECT UNNEST($1::uuid[]) AS id, UNNEST($2::text[]) AS status, UNNEST($3::timestamptz[]) AS status_at,
                     UNNEST($4::timestamptz[]) AS uploaded_at, UNNEST($5::text[]) AS error, UNNEST($6::text[]) AS filename,
                     UNNEST($7::text[]) AS creator, UNNEST($8::boolean[]) AS require_signed_urls,
                     UNNEST($9::text[]) AS variants, UNNEST($10::text[]) AS cloudflare_metadata,
                     UNNEST($11::text[]) AS details_at, UNNEST($12::timestamptz[]) AS updated_at
             ) AS told
             WHERE image.id = told.id
             ",
            $after_update,
        )
    };
}

impl Rows for PgConnection {
    async fn insert_missing(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> Result<Vec<String>, Failure> {
        Ok(sqlx::query_scalar(
            "-- inbox_insert_missing
             INSERT INTO cloudflare_images (cloudflare_id, created_at, updated_at)
             SELECT cloudflare_id, $2, $2 FROM UNNEST($1::text[]) WITH ORDINALITY AS told (cloudflare_id, position)
             WHERE NOT EXISTS (SELECT FROM cloudflare_images AS image WHERE image.cloudflare_id = told.cloudflare_id)
             ORDER BY position
             ON CONFLICT (cloudflare_id) DO NOTHING
             RETURNING cloudflare_id",
        )
        .bind(ids)
        .bind(now.to_offset_date_time())
        .fetch_all(self)
        .await?)
    }

    /// Locks the rows in the order of the ids, so that replicas with crossing batches wait for each other in one direction only.
    async fn lock_images(
        &mut self,
        ids: &[&str],
        with_rest: bool,
    ) -> Result<Vec<StateColumns>, Failure> {
        sqlx::query(concat!(
            "-- inbox_lock_images
             SELECT ",
            state_columns!(),
            ", CASE WHEN $2 THEN json_build_array(",
            rest_columns!("metadata"),
            ")::text END AS rest FROM cloudflare_images WHERE cloudflare_id = ANY($1) ORDER BY cloudflare_id COLLATE \"C\" FOR NO KEY UPDATE",
        ))
        .bind(ids)
        .bind(with_rest)
        .fetch_all(self)
        .await?
        .iter()
        .map(|row| {
            let rest = row.try_get("rest")?;
            Ok(StateColumns { rest, ..read_state(row)? })
        })
        .collect()
    }

    async fn find_seen(&mut self, undated: &[Undated<'_>]) -> Result<Vec<usize>, Failure> {
        let positions: Vec<i64> = sqlx::query_scalar(
            "-- inbox_find_seen
             SELECT position - 1 FROM UNNEST($1::uuid[], $2::text[]) WITH ORDINALITY AS told (image_id, data, position)
             WHERE EXISTS (
                 SELECT FROM cloudflare_image_logs AS log WHERE log.image_id = told.image_id AND log.data = told.data::jsonb
             )",
        )
        .bind(column(undated, |undated| undated.image_id))
        .bind(column(undated, |undated| undated.data.as_str()))
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
        // Reading the entries' ids back makes the statement slower by 5 to 15 %, which only those pay who want to know them.
        let sql = if with_log_ids {
            inbox_write!(
                "RETURNING id), updated AS (",
                "RETURNING 1) SELECT (SELECT count(*) FROM updated) AS updated, ARRAY(SELECT id FROM logged ORDER BY id) AS logged"
            )
        } else {
            inbox_write!(")", "")
        };
        let query = sqlx::query(sql)
            .bind(column(images, |image| image.id))
            .bind(column(images, |image| image.state.status.as_str()))
            .bind(column(images, |image| {
                image.state.status_at.map(Timestamp::to_offset_date_time)
            }))
            .bind(column(images, |image| {
                image.state.uploaded_at.map(Timestamp::to_offset_date_time)
            }))
            .bind(column(images, |image| image.state.error.as_str()))
            .bind(column(images, |image| {
                image.state.details.filename.value.as_str()
            }))
            .bind(column(images, |image| {
                image.state.details.creator.value.as_str()
            }))
            .bind(column(images, |image| {
                image.state.details.require_signed_urls.value
            }))
            .bind(column(images, ChangedImage::variants))
            .bind(column(images, ChangedImage::cloudflare_metadata))
            .bind(column(images, |image| details_at(&image.state.details)))
            .bind(column(images, |image| {
                image.updated_at.to_offset_date_time()
            }))
            .bind(column(logs, |entry| {
                entry.image.as_ref().map(|(id, _)| *id)
            }))
            .bind(column(logs, |entry| entry.event_type))
            .bind(column(logs, |entry| entry.message.as_str()))
            .bind(column(logs, |entry| entry.data.as_str()))
            .bind(column(logs, |entry| entry.timestamp.to_offset_date_time()));
        if !with_log_ids {
            let images = query.execute(self).await?.rows_affected();
            let log_ids = Vec::new();
            return Ok(Written { images, log_ids });
        }
        let row = query.fetch_one(self).await?;
        let updated: i64 = row.try_get("updated")?;
        Ok(Written {
            images: updated.unsigned_abs(),
            log_ids: row.try_get("logged")?,
        })
    }
}

/// One column of many rows.
pub(super) fn column<'a, T, C>(rows: &'a [T], read: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(read).collect()
}
