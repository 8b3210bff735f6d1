//! Facts about the tables, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Row as _;

use super::columns::{Backend, Row, bind_time, read_time, read_time_if_valid};
use crate::domain::timestamp::Timestamp;
use crate::store::diagnostics::{
    AuthenticatedRejection, Diagnostics, MAX_EXAMINED_ROWS, Parked, Refusals, WaitingImages,
};
use crate::store::error::StoreError;

#[async_trait]
impl Diagnostics for Backend {
    async fn last_webhook(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read("finding the last webhook", async |connection| {
            let row = sqlx::query(
                "-- diagnostics_last_webhook
                 SELECT timestamp FROM (
                     SELECT id, event_type, timestamp FROM cloudflare_image_logs ORDER BY id DESC LIMIT $1
                 ) AS newest
                 WHERE event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale', 'webhook_ignored')
                 ORDER BY id DESC LIMIT 1",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_optional(connection)
            .await?;
            Ok(row.and_then(|row| read_time_if_valid(&row, "timestamp")))
        })
        .await
    }

    async fn last_authenticated_rejection(
        &self,
    ) -> Result<Option<AuthenticatedRejection>, StoreError> {
        self.read("finding the last authenticated rejection", async |connection| {
            let row = sqlx::query(
                "-- diagnostics_last_authenticated_rejection
                 SELECT scheme, received_at FROM (
                     SELECT id, scheme, state, received_at FROM webhook_rejections ORDER BY id DESC LIMIT $1
                 ) AS newest
                 WHERE scheme <> '' AND state <> 'counted' ORDER BY id DESC LIMIT 1",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_optional(connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let scheme = row.try_get("scheme")?;
            let received_at = read_time(&row, "received_at")?;
            Ok(received_at.map(|received_at| AuthenticatedRejection {
                scheme,
                received_at,
            }))
        })
        .await
    }

    async fn refusals(&self, since: Timestamp) -> Result<Refusals, StoreError> {
        self.read("counting refused requests", async |connection| {
            let rows = sqlx::query(
                "-- diagnostics_refusals
                 SELECT reason, CAST(sum(count) AS bigint) AS requests, count(*) AS found FROM (
                     SELECT reason, count, received_at FROM webhook_rejections ORDER BY id DESC LIMIT $1
                 ) AS newest
                 WHERE received_at >= $2 GROUP BY reason ORDER BY requests DESC, reason",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .bind(bind_time(since))
            .fetch_all(connection)
            .await?;
            let mut found = 0;
            let mut by_reason = Vec::new();
            for row in &rows {
                found += read_count(row, "found")?;
                by_reason.push((row.try_get("reason")?, read_count(row, "requests")?));
            }
            Ok(Refusals {
                by_reason,
                is_incomplete: found >= u64::from(MAX_EXAMINED_ROWS),
            })
        })
        .await
    }

    async fn waiting_images(&self, created_before: Timestamp) -> Result<WaitingImages, StoreError> {
        self.read("counting waiting images", async |connection| {
            let row = sqlx::query(
                "-- diagnostics_waiting_images
                 SELECT count(*) AS examined, count(*) FILTER (WHERE status IN ('pending', 'draft')) AS waiting FROM (
                     SELECT status FROM cloudflare_images WHERE created_at < $1
                     ORDER BY created_at DESC, id DESC LIMIT $2
                 ) AS newest",
            )
            .bind(bind_time(created_before))
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_one(connection)
            .await?;
            Ok(WaitingImages {
                examined: read_count(&row, "examined")?,
                waiting: read_count(&row, "waiting")?,
            })
        })
        .await
    }

    async fn failed_deliveries(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.read("counting failed deliveries", async |connection| {
            let rows = sqlx::query(
                "-- diagnostics_failed_deliveries
                 SELECT endpoint, count(*) AS deliveries FROM (
                     SELECT endpoint FROM relay_deliveries WHERE status = 'failed' ORDER BY endpoint, id LIMIT $1
                 ) AS failed
                 GROUP BY endpoint ORDER BY endpoint",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_all(connection)
            .await?;
            let mut by_endpoint = Vec::new();
            for row in &rows {
                by_endpoint.push((row.try_get("endpoint")?, read_count(row, "deliveries")?));
            }
            Ok(by_endpoint)
        })
        .await
    }

    async fn parked(&self) -> Result<Parked, StoreError> {
        self.read("counting parked notifications", async |connection| {
            let row = sqlx::query(
                "-- diagnostics_parked
                 SELECT count(*) AS parked, min(parked_at) AS oldest FROM (
                     SELECT parked_at FROM webhook_rejections WHERE state = 'parked' ORDER BY id LIMIT $1
                 ) AS parked",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_one(connection)
            .await?;
            Ok(Parked {
                count: read_count(&row, "parked")?,
                oldest: read_time(&row, "oldest")?,
            })
        })
        .await
    }

    async fn last_invalid_payload(&self) -> Result<Option<i64>, StoreError> {
        self.read("finding the last invalid payload", async |connection| {
            let id = sqlx::query_scalar(
                "-- diagnostics_last_invalid_payload
                 SELECT id FROM (
                     SELECT id, reason, state FROM webhook_rejections ORDER BY id DESC LIMIT $1
                 ) AS newest
                 WHERE reason = 'invalid-payload' AND state IN ('stored', 'failed') ORDER BY id DESC LIMIT 1",
            )
            .bind(i64::from(MAX_EXAMINED_ROWS))
            .fetch_optional(connection)
            .await?;
            Ok(id)
        })
        .await
    }
}

/// Reads a number of rows.
fn read_count(row: &Row, column: &str) -> Result<u64, sqlx::Error> {
    let count: i64 = row.try_get(column)?;
    Ok(count.unsigned_abs())
}
