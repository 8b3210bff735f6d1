//! The outbox, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Executor as _;

use super::claim_statements::{claim, claim_on};
use super::columns::{Backend, Connection, ago, bind_ago, bind_ids, bind_now, now, selected_ids};
use super::outbox_statements::{insert_attempts, settle};
use crate::clock::ClockReading;
use crate::store::error::StoreError;
use crate::store::inbox::record::insert_events;
use crate::store::outbox::event::NewEvent;
use crate::store::outbox::router::{OutboxBatch, Wakeups, alert_events};
use crate::store::outbox::{
    Claim, Claimed, NewAttempt, Outbox, Pause, PauseProbe, Settled, Settlement,
};
use crate::store::session::{
    OperationError, TransactionMode, catch_suppression, check_written, rows_suppressed,
};

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

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, StoreError> {
        let mode = TransactionMode::WithoutFsync;
        let settling = self.transaction("settling deliveries", mode, async |tx| {
            let settled = settle(tx, settlements).await?;
            let lost_leases = settlements.len().saturating_sub(settled);
            if lost_leases > 0 {
                check_lost(tx, settlements).await?;
            }
            let suppressed = insert_attempts_and_alerts(tx, settlements).await?;
            let wakeups = self.wake_next(tx, settlements).await?;
            let settled = Settled {
                lost_leases,
                suppressed,
            };
            Ok((settled, wakeups))
        });
        let settled = settling.await?;
        self.count_committed(settlements.len());
        Ok(settled)
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
                insert_events(tx, &batch).await?;
            }
            if paused == 0 && !is_paused(tx, pause.endpoint).await? {
                return Err(rows_suppressed("relay_endpoints"));
            }
            Ok((paused > 0, Wakeups::default()))
        })
        .await
    }

    async fn resume(&self, endpoint: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let mode = TransactionMode::Durable;
        self.transaction("resuming an endpoint", mode, async |tx| {
            let resumed = sqlx::query(
                "-- endpoints_resume
                 UPDATE relay_endpoints SET paused_at = NULL, pause_reason = ''
                 WHERE name = $1 AND paused_at IS NOT NULL AND (CAST($2 AS text) IS NULL OR pause_reason = $2)",
            )
            .bind(endpoint)
            .bind(reason)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if resumed == 0 && is_paused_for(tx, endpoint, reason).await? {
                return Err(rows_suppressed("relay_endpoints"));
            }
            Ok((resumed > 0, Wakeups::default()))
        })
        .await
    }
}

/// Fails if a delivery still has the lease under which it was settled. Then the lease was not lost, and the result was suppressed.
async fn check_lost(tx: &mut Connection, settlements: &[Settlement]) -> Result<(), OperationError> {
    let leases: Vec<(i64, String)> = sqlx::query_as(concat!(
        "-- outbox_find_leases
         SELECT id, lease FROM relay_deliveries WHERE lease IS NOT NULL AND id IN (",
        selected_ids!("$1"),
        ")",
    ))
    .bind(bind_ids(
        settlements.iter().map(|settlement| settlement.delivery),
    ))
    .fetch_all(tx)
    .await?;
    let is_leased = |settlement: &Settlement| {
        leases
            .iter()
            .any(|(id, lease)| *id == settlement.delivery && **lease == *settlement.lease)
    };
    if settlements.iter().any(is_leased) {
        return Err(rows_suppressed("relay_deliveries"));
    }
    Ok(())
}

/// Inserts the attempts and the alerts of settlements. Returns the error if some of them were suppressed.
async fn insert_attempts_and_alerts(
    tx: &mut Connection,
    settlements: &[Settlement],
) -> Result<Option<StoreError>, OperationError> {
    let mut suppressed = None;
    let attempts: Vec<(i64, &NewAttempt)> = settlements
        .iter()
        .filter_map(|settlement| Some((settlement.delivery, settlement.attempt()?)))
        .collect();
    if !attempts.is_empty() {
        let inserted = insert_attempts(tx, &attempts).await?;
        let checked = check_written("relay_attempts", attempts.len(), inserted);
        suppressed = catch_suppression(checked)?;
    }
    let (events, endpoints) = alert_events(settlements);
    if !events.is_empty() {
        let batch = OutboxBatch::alerts(&events, &endpoints);
        // Without the savepoint, a delivery could stay without its event.
        tx.execute("SAVEPOINT before_alerts").await?;
        let inserted = insert_events(tx, &batch).await;
        if let Some(error) = catch_suppression(inserted)? {
            tx.execute("ROLLBACK TO SAVEPOINT before_alerts").await?;
            suppressed = Some(error);
        }
    }
    Ok(suppressed)
}

/// Returns whether an endpoint is paused.
async fn is_paused(tx: &mut Connection, endpoint: &str) -> Result<bool, OperationError> {
    is_paused_for(tx, endpoint, None).await
}

/// Returns whether an endpoint is paused for this reason; `None` means any reason.
async fn is_paused_for(
    tx: &mut Connection,
    endpoint: &str,
    reason: Option<&str>,
) -> Result<bool, OperationError> {
    let is_paused = sqlx::query_scalar(
        "-- endpoints_is_paused
         SELECT EXISTS (
             SELECT 1 FROM relay_endpoints
             WHERE name = $1 AND paused_at IS NOT NULL AND (CAST($2 AS text) IS NULL OR pause_reason = $2)
         )",
    );
    Ok(is_paused.bind(endpoint).bind(reason).fetch_one(tx).await?)
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
