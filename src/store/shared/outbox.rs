//! The outbox, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::claim_statements::{claim, claim_on};
use super::columns::{Backend, Connection, ago, bind_ago, bind_ids, bind_now, now, selected_ids};
use super::outbox_statements::{insert_attempts, settle};
use crate::clock::ClockReading;
use crate::store::error::StoreError;
use crate::store::inbox::statements::EventStatements;
use crate::store::outbox::event::NewEvent;
use crate::store::outbox::router::{OutboxBatch, Wakeups, alert_events};
use crate::store::outbox::{Claim, Claimed, NewAttempt, Outbox, Pause, PauseProbe, Settlement};
use crate::store::session::{OperationError, TransactionMode};

#[async_trait]
impl Outbox for Backend {
    async fn claim(&self, request: &Claim<'_>) -> Result<Claimed, StoreError> {
        claim(self, request).await
    }

    async fn release_postponed(
        &self,
        endpoint: &str,
        now: ClockReading,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.write("releasing postponed deliveries", async |connection| {
            let released = sqlx::query(concat!(
                "-- outbox_release_postponed
                 UPDATE relay_deliveries SET due_at = ",
                now!("$2"),
                " WHERE id IN (
                     SELECT id FROM relay_deliveries
                     WHERE endpoint = $1 AND image IS NOT NULL AND status = 'pending' AND due_at > ",
                now!("$2"),
                " ORDER BY image, id LIMIT $3
                 )",
            ))
            .bind(endpoint)
            .bind(bind_now(now))
            .bind(i64::from(limit))
            .execute(connection)
            .await?;
            Ok(released.rows_affected())
        })
        .await
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
            Ok((settled, self.wake_next(tx, settlements).await?))
        });
        let settled = settling.await?;
        self.count_committed(settlements.len());
        Ok(settlements.len().saturating_sub(settled))
    }

    async fn claim_probe(
        &self,
        probe: &PauseProbe<'_>,
        claim: &Claim<'_>,
    ) -> Result<Claimed, StoreError> {
        const ACTION: &str = "claiming a probe";
        let checking = self.read(ACTION, async |connection| {
            let is_due = sqlx::query_scalar(concat!(
                "-- endpoints_probe_is_due
                 SELECT EXISTS (
                     SELECT 1 FROM relay_endpoints
                     WHERE name = $1 AND pause_reason = $3 AND paused_at <= ",
                ago!("$2", "$4"),
                " AND EXISTS (SELECT 1 FROM relay_deliveries WHERE endpoint = $1 AND due_at <= ",
                now!("$2"),
                "))",
            ));
            Ok(is_due
                .bind(claim.endpoint)
                .bind(bind_now(claim.now))
                .bind(probe.reason)
                .bind(bind_ago(claim.now, probe.interval))
                .fetch_one(connection)
                .await?)
        });
        if !checking.await? {
            return Ok(Claimed::default());
        }
        let claiming = self.transaction(ACTION, TransactionMode::WithoutFsync, async |tx| {
            let begun = sqlx::query(concat!(
                "-- endpoints_begin_probe
                 UPDATE relay_endpoints SET paused_at = ",
                now!("$2"),
                " WHERE name = $1 AND pause_reason = $3 AND paused_at <= ",
                ago!("$2", "$4"),
            ))
            .bind(claim.endpoint)
            .bind(bind_now(claim.now))
            .bind(probe.reason)
            .bind(bind_ago(claim.now, probe.interval))
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if begun == 0 {
                return Ok((Claimed::default(), Wakeups::default()));
            }
            let one = Claim {
                limit: 1,
                ignores_pause: true,
                ..*claim
            };
            Ok((claim_on(tx, &one).await?, Wakeups::default()))
        });
        claiming.await
    }

    async fn pause(&self, pause: &Pause<'_>) -> Result<bool, StoreError> {
        let mode = TransactionMode::Durable;
        self.transaction("pausing an endpoint", mode, async |tx| {
            let paused = sqlx::query(concat!(
                "-- endpoints_pause
                 INSERT INTO relay_endpoints (name, paused_at, pause_reason) VALUES ($1, ",
                now!("$2"),
                ", $3)
                 ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, pause_reason = $3
                     WHERE relay_endpoints.paused_at IS NULL",
            ))
            .bind(pause.endpoint)
            .bind(bind_now(pause.now))
            .bind(pause.reason)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if let (1, Some(alert)) = (paused, &pause.alert) {
                let events = [NewEvent::alert(alert)];
                let batch = OutboxBatch::alerts(&events, &[alert.endpoint]);
                tx.insert_events(&batch).await?;
            }
            Ok((paused > 0, Wakeups::default()))
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

impl Backend {
    /// Makes the next delivery due after each completed one of an ordered endpoint, and returns the wake-ups of their workers.
    ///
    /// This is a statement of its own after the settlements, so on Postgres it sees deliveries that a claim postponed meanwhile.
    async fn wake_next(
        &self,
        connection: &mut Connection,
        settlements: &[Settlement],
    ) -> Result<Wakeups, OperationError> {
        let completed: Vec<&Settlement> = settlements
            .iter()
            .filter(|settlement| settlement.completes_in_order())
            .collect();
        let Some(last) = completed.last() else {
            return Ok(Wakeups::default());
        };
        let endpoints: Vec<String> = sqlx::query_scalar(concat!(
            "-- outbox_wake_next
             UPDATE relay_deliveries SET due_at = ",
            now!("$2"),
            " WHERE status <> 'leased' AND due_at > ",
            now!("$2"),
            " AND id IN (
                 SELECT (
                     SELECT next.id FROM relay_deliveries AS next
                     WHERE next.endpoint = completed.endpoint AND next.image = completed.image AND next.due_at IS NOT NULL
                     ORDER BY next.id LIMIT 1
                 )
                 FROM relay_deliveries AS completed
                 WHERE completed.id IN (",
            selected_ids!("$1"),
            ") AND completed.due_at IS NULL
             ) RETURNING endpoint",
        ))
        .bind(bind_ids(completed.iter().map(|settlement| settlement.delivery)))
        .bind(bind_now(last.now))
        .fetch_all(connection)
        .await?;
        Ok(self.policy.router.wakeups_of(&endpoints))
    }
}
