//! What was not applied, in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};

use super::Sqlite;
use super::inbox::json;
use super::rejection_catalog::{columns, read_rejection};
use crate::domain::id::CloudflareId;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::recording::{RejectionRows, record_rejected};
use crate::store::rejection::{Due, MAX_ATTEMPTS, NewRejection, RefusalCount};
use crate::store::{Failure, Lent, Rejections, StoreError, within};

#[async_trait]
impl Rejections for Sqlite {
    /// Two statements, each about a bounded number of rows: however many are parked, none takes long.
    async fn due(
        &self,
        after: i64,
        since: Timestamp,
        proved_only: bool,
        limit: u32,
    ) -> Result<Option<Due>, StoreError> {
        within(&self.place, self.deadline, "looking for parked notifications", async {
            let (last, has_expired): (Option<i64>, Option<bool>) = sqlx::query_as(
                "-- rejections_parked
                 SELECT max(id), max(parked_at < $3)
                 FROM (SELECT id, parked_at FROM webhook_rejections WHERE state = 'parked' AND id > $1 ORDER BY id LIMIT $2) AS page",
            )
            .bind(after)
            .bind(i64::from(limit))
            .bind(since.to_string())
            .fetch_one(&self.readers)
            .await?;
            let Some(last) = last else {
                return Ok(None);
            };
            let rejections: Result<_, Failure> = sqlx::query(concat!(
                "-- rejections_due
                 SELECT ",
                columns!(),
                " FROM webhook_rejections AS rejection
                 WHERE state = 'parked' AND id > $1 AND id <= $2 AND parked_at >= $3 AND (scheme <> '' OR NOT $4)
                     AND EXISTS (SELECT 1 FROM cloudflare_images AS image WHERE image.cloudflare_id = rejection.cloudflare_id)
                 ORDER BY id",
            ))
            .bind(after)
            .bind(last)
            .bind(since.to_string())
            .bind(proved_only)
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(read_rejection)
            .collect();
            Ok(Some(Due {
                last,
                has_expired: has_expired.unwrap_or_default(),
                rejections: rejections?,
            }))
        })
        .await
    }

    async fn apply(
        &self,
        notifications: &[(i64, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<(i64, Outcome)>, StoreError> {
        self.file.check(&self.place)?;
        within(
            &self.place,
            self.deadline,
            "applying what was rejected",
            async {
                let mut lent = Lent::from(&self.writer).await?;
                let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
                let (applied, bells) =
                    record_rejected(&mut *tx, notifications, &self.recording, now).await?;
                tx.commit().await?;
                bells.ring();
                lent.give_back();
                Ok(applied)
            },
        )
        .await
    }

    async fn count(&self, counted: &[RefusalCount]) -> Result<(), StoreError> {
        let told: Vec<_> = counted
            .iter()
            .map(|counted| {
                let minute = counted.minute.to_string();
                (
                    minute,
                    counted.reason.http_status(),
                    counted.reason.name(),
                    counted.scheme,
                    &counted.network,
                    counted.count,
                )
            })
            .collect();
        within(&self.place, self.deadline, "counting who was turned away", async {
            let mut lent = Lent::from(&self.writer).await?;
            sqlx::query(
                // Without a WHERE, ON would be read as part of a join.
                "-- rejections_count
                 INSERT INTO webhook_rejections (received_at, status, reason, scheme, client_address, count, state)
                 SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, 'counted' FROM jsonb_each($1) WHERE true
                 ON CONFLICT (received_at, reason, scheme, client_address) WHERE state = 'counted'
                 DO UPDATE SET count = count + excluded.count",
            )
            .bind(json(&told))
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError> {
        within(
            &self.place,
            self.deadline,
            "parking a notification",
            async {
                let mut lent = Lent::from(&self.writer).await?;
                sqlx::query(
                    "-- rejections_park
                 UPDATE webhook_rejections SET state = 'parked', cloudflare_id = $2, parked_at = $3, attempts = 0
                 WHERE id = $1 AND state IN ('parked', 'kept', 'failed')",
                )
                .bind(id)
                .bind(image.as_str())
            .bind(now.to_string())
                .execute(&mut *lent.connection)
                .await?;
                lent.give_back();
                Ok(())
            },
        )
        .await
    }

    async fn unpark(&self, after: i64, last: i64, since: Timestamp) -> Result<(), StoreError> {
        within(&self.place, self.deadline, "ending the parking of notifications", async {
            let mut lent = Lent::from(&self.writer).await?;
            sqlx::query(
                "-- rejections_unpark
                 UPDATE webhook_rejections SET state = 'kept' WHERE state = 'parked' AND id > $1 AND id <= $2 AND parked_at < $3",
            )
            .bind(after)
            .bind(last)
            .bind(since.to_string())
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn failed(&self, id: i64, why: &str, now: Timestamp) -> Result<(), StoreError> {
        within(
            &self.place,
            self.deadline,
            "noting that a parked notification failed",
            async {
                let mut lent = Lent::from(&self.writer).await?;
                sqlx::query(
                    "-- rejections_failed
                 UPDATE webhook_rejections
                 SET attempts = attempts + 1, outcome = $2, settled_at = $3,
                     state = CASE WHEN attempts + 1 >= $4 THEN 'failed' ELSE state END
                 WHERE id = $1 AND state = 'parked'",
                )
                .bind(id)
                .bind(why)
                .bind(now.to_string())
                .bind(MAX_ATTEMPTS)
                .execute(&mut *lent.connection)
                .await?;
                lent.give_back();
                Ok(())
            },
        )
        .await
    }
}

impl RejectionRows for SqliteConnection {
    /// JSON has no bytes; they travel in hexadecimal.
    async fn insert_rejections(&mut self, rejections: &[NewRejection]) -> Result<(), Failure> {
        let told: Vec<_> = rejections
            .iter()
            .map(|entry| {
                (
                    entry.received_at.to_string(),
                    i32::from(entry.reason.http_status()),
                    entry.reason.name(),
                    &entry.problem,
                    &entry.origin.scheme,
                    &entry.origin.client_address,
                    &entry.origin.request_id,
                    entry.cloudflare_id.as_ref().map(CloudflareId::as_str),
                    hex::encode(&entry.body),
                    entry.body_bytes,
                    entry.state.name(),
                    entry.parked_at().map(|at| at.to_string()),
                )
            })
            .collect();
        sqlx::query(
            "-- rejections_insert
             INSERT INTO webhook_rejections
                 (received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, body, body_bytes, state, parked_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
                 unhex(value ->> 8), value ->> 9, value ->> 10, value ->> 11
             FROM jsonb_each($1) ORDER BY key",
        )
        .bind(json(&told))
        .execute(self)
        .await?;
        Ok(())
    }

    /// The write lock is held; nothing is left to be locked.
    async fn lock_unapplied(&mut self, ids: &[i64]) -> Result<Vec<i64>, Failure> {
        Ok(sqlx::query_scalar(
            "-- rejections_lock_unapplied
             SELECT id FROM webhook_rejections WHERE id IN (SELECT value FROM json_each($1)) AND state IN ('parked', 'kept', 'failed') ORDER BY id",
        )
        .bind(json(ids))
        .fetch_all(self)
        .await?)
    }

    async fn settle(
        &mut self,
        settled: &[(i64, &'static str)],
        now: Timestamp,
    ) -> Result<(), Failure> {
        sqlx::query(
            "-- rejections_settle
             UPDATE webhook_rejections SET state = 'applied', settled_at = $2, outcome = told.value ->> 1
             FROM jsonb_each($1) AS told WHERE webhook_rejections.id = told.value ->> 0",
        )
        .bind(json(settled))
        .bind(now.to_string())
        .execute(self)
        .await?;
        Ok(())
    }
}
