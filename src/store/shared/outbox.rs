//! The outbox, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::claim_statements::claim;
use super::columns::{Backend, bind_time};
use super::outbox_statements::{insert_attempts, settle};
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::statements::EventStatements;
use crate::store::outbox::router::{OutboxBatch, Wakeups, alert_events};
use crate::store::outbox::{Claim, LeasedDelivery, NewAttempt, Outbox, Settlement};
use crate::store::session::TransactionMode;

#[async_trait]
impl Outbox for Backend {
    async fn claim(&self, request: &Claim<'_>) -> Result<Vec<LeasedDelivery>, StoreError> {
        claim(self, request).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError> {
        let mode = TransactionMode::WithoutFsync;
        let settling = self.transaction("settling deliveries", mode, async |tx| {
            let settled = settle(tx, settlements).await?;
            let attempts: Vec<(i64, &NewAttempt)> = settlements
                .iter()
                .filter_map(|settlement| Some((settlement.delivery, settlement.attempt()?)))
                .collect();
            if !attempts.is_empty() {
                insert_attempts(tx, &attempts).await?;
            }
            let (events, endpoints) = alert_events(settlements);
            if !events.is_empty() {
                let batch = OutboxBatch::alerts(&events, &endpoints);
                tx.insert_events(&batch).await?;
            }
            Ok((settled, Wakeups::default()))
        });
        let settled = settling.await?;
        self.count_committed(settlements.len());
        Ok(settlements.len().saturating_sub(settled))
    }

    async fn pause(&self, endpoint: &str, reason: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write("pausing an endpoint", async |connection| {
            sqlx::query(
                "-- endpoints_pause
                 INSERT INTO relay_endpoints (name, paused_at, pause_reason) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET paused_at = $2, pause_reason = $3 WHERE relay_endpoints.paused_at IS NULL",
            )
            .bind(endpoint)
            .bind(bind_time(now))
            .bind(reason)
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    async fn resume(&self, endpoint: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        self.write("resuming an endpoint", async |connection| {
            let resumed = sqlx::query(
                "-- endpoints_resume
                 UPDATE relay_endpoints SET paused_at = NULL, pause_reason = ''
                 WHERE name = $1 AND paused_at IS NOT NULL AND (CAST($2 AS text) IS NULL OR pause_reason = $2)",
            )
            .bind(endpoint)
            .bind(reason)
            .execute(connection)
            .await?;
            Ok(resumed.rows_affected() > 0)
        })
        .await
    }
}
