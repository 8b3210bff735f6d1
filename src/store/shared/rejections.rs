//! The rejections: parking, applying, expiring and counting, mounted into each backend (see [`super`]).

use std::sync::Arc;

use async_trait::async_trait;

use super::columns::{Backend, bind_time};
use super::rejection_catalog::{read_rejection, rejection_columns};
use super::rejection_statements;
use crate::domain::id::CloudflareId;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::record::record_rejected;
use crate::store::inbox::statements::{RejectionStatements, is_unapplied};
use crate::store::outbox::router::Wakeups;
use crate::store::rejections::{
    MAX_ATTEMPTS, ParkedPage, ParkedQuery, RefusalCount, Rejection, Rejections,
};
use crate::store::session::{OperationError, TransactionMode, check_written};

#[async_trait]
impl Rejections for Backend {
    /// Each of the two statements reads at most `limit` rows, no matter how many notifications are parked.
    async fn parked_page(&self, query: &ParkedQuery) -> Result<Option<ParkedPage>, StoreError> {
        self.read("finding parked notifications", async |connection| {
            let (last_id, has_expired_rows): (Option<i64>, bool) = sqlx::query_as(
                "-- rejections_parked
                 SELECT max(id), count(*) FILTER (WHERE parked_at < $3) > 0
                 FROM (SELECT id, parked_at FROM webhook_rejections WHERE state = 'parked' AND id > $1 ORDER BY id LIMIT $2) AS page",
            )
            .bind(query.after)
            .bind(i64::from(query.limit))
            .bind(bind_time(query.since))
            .fetch_one(&mut *connection)
            .await?;
            let Some(last_id) = last_id else {
                return Ok(None);
            };
            let rejections: Result<Vec<Rejection>, OperationError> = sqlx::query(concat!(
                "-- rejections_applicable
                 SELECT ",
                rejection_columns!(),
                " FROM webhook_rejections AS rejection
                 WHERE state = 'parked' AND id > $1 AND id <= $2 AND parked_at >= $3 AND (scheme <> '' OR NOT $4)
                     AND EXISTS (SELECT 1 FROM cloudflare_images AS image WHERE image.cloudflare_id = rejection.cloudflare_id)
                 ORDER BY id",
            ))
            .bind(query.after)
            .bind(last_id)
            .bind(bind_time(query.since))
            .bind(query.authenticated_only)
            .fetch_all(connection)
            .await?
            .iter()
            .map(read_rejection)
            .collect();
            Ok(Some(ParkedPage {
                last_id,
                has_expired_rows,
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
        self.transaction(
            "applying rejections",
            TransactionMode::Durable,
            async |tx| record_rejected(tx, notifications, &self.policy, now).await,
        )
        .await
    }

    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError> {
        let mode = TransactionMode::Durable;
        self.transaction("parking a notification", mode, async |tx| {
            if tx.lock_unapplied(&[id]).await?.is_empty() {
                return Ok(((), Wakeups::default()));
            }
            let parked = sqlx::query(concat!(
                "-- rejections_park
                 UPDATE webhook_rejections SET state = 'parked', cloudflare_id = $2, parked_at = $3, attempts = 0
                 WHERE id = $1 AND ",
                is_unapplied!(),
            ))
            .bind(id)
            .bind(image.as_str())
            .bind(bind_time(now))
            .execute(&mut *tx)
            .await?;
            check_written("webhook_rejections", 1, parked.rows_affected())?;
            Ok(((), Wakeups::default()))
        })
        .await
    }

    async fn expire_parked(
        &self,
        after: i64,
        last: i64,
        parked_before: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("expiring parked notifications", async |connection| {
            sqlx::query(
                "-- rejections_expire_parked
                 UPDATE webhook_rejections SET state = 'stored' WHERE state = 'parked' AND id > $1 AND id <= $2 AND parked_at < $3",
            )
            .bind(after)
            .bind(last)
            .bind(bind_time(parked_before))
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    async fn add_refusals(&self, counts: &[RefusalCount]) -> Result<u64, StoreError> {
        self.write("counting refused requests", async |connection| {
            rejection_statements::add_refusals(connection, counts).await
        })
        .await
    }

    async fn record_failure(&self, id: i64, error: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write("recording a failed attempt", async |connection| {
            sqlx::query(
                "-- rejections_record_failure
                 UPDATE webhook_rejections
                 SET attempts = attempts + 1, outcome = $2, settled_at = $3,
                     state = CASE WHEN attempts + 1 >= $4 THEN 'failed' ELSE state END
                 WHERE id = $1 AND state = 'parked'",
            )
            .bind(id)
            .bind(error)
            .bind(bind_time(now))
            .bind(MAX_ATTEMPTS)
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }
}
