//! What was not applied, in Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};

use super::Postgres;
use super::inbox::column;
use super::rejection_catalog::{columns, read_rejection};
use crate::domain::id::CloudflareId;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::recording::{RejectionRows, record_rejected};
use crate::store::rejection::{Due, MAX_ATTEMPTS, NewRejection, RefusalCount};
use crate::store::{Failure, Lent, Rejections, StoreError};

#[async_trait]
impl Rejections for Postgres {
    /// Two statements, each about a bounded number of rows: however many are parked, none takes long.
    async fn due(
        &self,
        after: i64,
        since: Timestamp,
        proved_only: bool,
        limit: u32,
    ) -> Result<Option<Due>, StoreError> {
        self.within("looking for parked notifications", async {
            let (last, has_expired): (Option<i64>, Option<bool>) = sqlx::query_as(
                "-- rejections_parked
                 SELECT max(id), bool_or(parked_at < $3)
                 FROM (SELECT id, parked_at FROM webhook_rejections WHERE state = 'parked' AND id > $1 ORDER BY id LIMIT $2) AS page",
            )
            .bind(after)
            .bind(i64::from(limit))
            .bind(since.to_offset_date_time())
            .fetch_one(&self.pool)
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
                     AND EXISTS (SELECT FROM cloudflare_images AS image WHERE image.cloudflare_id = rejection.cloudflare_id)
                 ORDER BY id",
            ))
            .bind(after)
            .bind(last)
            .bind(since.to_offset_date_time())
            .bind(proved_only)
            .fetch_all(&self.pool)
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
        self.within("applying what was rejected", async {
            let mut lent = Lent::from(&self.pool).await?;
            let mut tx = lent.connection.begin().await?;
            let (applied, bells) =
                record_rejected(&mut *tx, notifications, &self.recording, now).await?;
            tx.commit().await?;
            bells.ring();
            lent.give_back();
            Ok(applied)
        })
        .await
    }

    /// Sorted, so that replicas wait for each other in one direction only.
    async fn count(&self, counted: &[RefusalCount]) -> Result<(), StoreError> {
        self.within("counting who was turned away", async {
            let mut lent = Lent::from(&self.pool).await?;
            sqlx::query(
                "-- rejections_count
                 INSERT INTO webhook_rejections AS rejection (received_at, status, reason, scheme, client_address, count, state)
                 SELECT told.minute, told.status, told.reason, told.scheme, told.network, told.count, 'counted'
                 FROM (
                     SELECT UNNEST($1::timestamptz[]) AS minute, UNNEST($2::text[]) AS scheme, UNNEST($3::text[]) AS network,
                         UNNEST($4::bigint[]) AS count, UNNEST($5::integer[]) AS status, UNNEST($6::text[]) AS reason
                 ) AS told
                 ORDER BY told.minute, told.reason, told.scheme, told.network
                 ON CONFLICT (received_at, reason, scheme, client_address) WHERE state = 'counted'
                 DO UPDATE SET count = rejection.count + excluded.count",
            )
            .bind(column(counted, |counted| counted.minute.to_offset_date_time()))
            .bind(column(counted, |counted| counted.scheme))
            .bind(column(counted, |counted| counted.network.as_str()))
            .bind(column(counted, |counted| counted.count))
            .bind(column(counted, |counted| i32::from(counted.reason.http_status())))
            .bind(column(counted, |counted| counted.reason.name()))
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError> {
        self.within("parking a notification", async {
            let mut lent = Lent::from(&self.pool).await?;
            sqlx::query(
                "-- rejections_park
                 UPDATE webhook_rejections SET state = 'parked', cloudflare_id = $2, parked_at = $3, attempts = 0
                 WHERE id = $1 AND state IN ('parked', 'kept', 'failed')",
            )
            .bind(id)
            .bind(image.as_str())
            .bind(now.to_offset_date_time())
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn unpark(&self, after: i64, last: i64, since: Timestamp) -> Result<(), StoreError> {
        self.within("ending the parking of notifications", async {
            let mut lent = Lent::from(&self.pool).await?;
            sqlx::query(
                "-- rejections_unpark
                 UPDATE webhook_rejections SET state = 'kept' WHERE state = 'parked' AND id > $1 AND id <= $2 AND parked_at < $3",
            )
            .bind(after)
            .bind(last)
            .bind(since.to_offset_date_time())
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn failed(&self, id: i64, why: &str, now: Timestamp) -> Result<(), StoreError> {
        self.within("noting that a parked notification failed", async {
            let mut lent = Lent::from(&self.pool).await?;
            sqlx::query(
                "-- rejections_failed
                 UPDATE webhook_rejections
                 SET attempts = attempts + 1, outcome = $2, settled_at = $3,
                     state = CASE WHEN attempts + 1 >= $4 THEN 'failed' ELSE state END
                 WHERE id = $1 AND state = 'parked'",
            )
            .bind(id)
            .bind(why)
            .bind(now.to_offset_date_time())
            .bind(MAX_ATTEMPTS)
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }
}

impl RejectionRows for PgConnection {
    async fn insert_rejections(&mut self, rejections: &[NewRejection]) -> Result<(), Failure> {
        sqlx::query(
            "-- rejections_insert
             INSERT INTO webhook_rejections
                 (received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, body, body_bytes, state, parked_at)
             SELECT UNNEST($1::timestamptz[]), UNNEST($2::integer[]), UNNEST($3::text[]), UNNEST($4::text[]), UNNEST($5::text[]),
                 UNNEST($6::text[]), UNNEST($7::text[]), UNNEST($8::text[]), UNNEST($9::bytea[]), UNNEST($10::integer[]),
                 UNNEST($11::text[]), UNNEST($12::timestamptz[])",
        )
        .bind(column(rejections, |entry| entry.received_at.to_offset_date_time()))
        .bind(column(rejections, |entry| i32::from(entry.reason.http_status())))
        .bind(column(rejections, |entry| entry.reason.name()))
        .bind(column(rejections, |entry| entry.problem.as_str()))
        .bind(column(rejections, |entry| entry.origin.scheme.as_str()))
        .bind(column(rejections, |entry| entry.origin.client_address.as_str()))
        .bind(column(rejections, |entry| entry.origin.request_id.as_str()))
        .bind(column(rejections, |entry| entry.cloudflare_id.as_ref().map(CloudflareId::as_str)))
        .bind(column(rejections, |entry| entry.body.as_slice()))
        .bind(column(rejections, |entry| entry.body_bytes))
        .bind(column(rejections, |entry| entry.state.name()))
        .bind(column(rejections, |entry| entry.parked_at().map(Timestamp::to_offset_date_time)))
        .execute(self)
        .await?;
        Ok(())
    }

    /// What another replica is at is left to it.
    async fn lock_unapplied(&mut self, ids: &[i64]) -> Result<Vec<i64>, Failure> {
        Ok(sqlx::query_scalar(
            "-- rejections_lock_unapplied
             SELECT id FROM webhook_rejections WHERE id = ANY($1) AND state IN ('parked', 'kept', 'failed') ORDER BY id FOR UPDATE SKIP LOCKED",
        )
        .bind(ids)
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
             UPDATE webhook_rejections AS rejection SET state = 'applied', settled_at = $3, outcome = told.outcome
             FROM (SELECT UNNEST($1::bigint[]) AS id, UNNEST($2::text[]) AS outcome) AS told
             WHERE rejection.id = told.id",
        )
        .bind(column(settled, |(id, _)| *id))
        .bind(column(settled, |(_, outcome)| *outcome))
        .bind(now.to_offset_date_time())
        .execute(self)
        .await?;
        Ok(())
    }
}
