//! The settler: records the results of deliveries, many in one transaction.
//!
//! There is no timer. Each transaction records the results that arrived during the previous one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::throttle::RelayThrottle;
use crate::store::{LeaseResult, NextState, Outbox, Settled, Settlement, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::{DELIVERED, DeliveryResult, FAILED, RelayMetrics};

/// The limit of settlements in one transaction.
const MAX_BATCH_SIZE: usize = 256;

/// The limit of queued settlements. A full queue makes the deliverers wait. Each queued settlement
/// keeps its claim permit, so an endpoint cannot queue more settlements than it may claim deliveries.
const QUEUE_CAPACITY: usize = 1024;

/// The wait before the next try while the database is unavailable. If a lease expires before its
/// delivery is settled, the delivery is sent again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The permit to have a claimed delivery, until its settlement is recorded.
#[expect(dead_code, reason = "permits return to their semaphores when dropped")]
pub(super) struct ClaimPermit {
    /// Counts against the worker's claim limit.
    pub(super) claimed: OwnedSemaphorePermit,
    /// Set if the lease before this one expired. The worker has one such delivery at a time.
    pub(super) expired: Option<OwnedSemaphorePermit>,
}

/// A request to record the result of a delivery.
pub(in crate::relay) struct SettleRequest {
    pub(super) settlement: Settlement,
    pub(super) claim_permit: ClaimPermit,
}

/// The error if some settlements were not recorded.
struct SettleFailed;

/// Records the results of the deliveries to all endpoints.
pub(in crate::relay) struct Settler {
    outbox: Arc<dyn Outbox>,
    throttle: Arc<RelayThrottle>,
    metrics: RelayMetrics,
    requests: mpsc::Receiver<SettleRequest>,
    stop: CancellationToken,
}

impl Settler {
    /// Creates a settler and the sender for its queue.
    pub(in crate::relay) fn new(
        outbox: Arc<dyn Outbox>,
        throttle: Arc<RelayThrottle>,
        metrics: RelayMetrics,
        stop: CancellationToken,
    ) -> (Self, mpsc::Sender<SettleRequest>) {
        let (sender, requests) = mpsc::channel(QUEUE_CAPACITY);
        let settler = Self {
            outbox,
            throttle,
            metrics,
            requests,
            stop,
        };
        (settler, sender)
    }

    /// Settles until every sender is dropped.
    pub(in crate::relay) async fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH_SIZE);
        while self.requests.recv_many(&mut batch, MAX_BATCH_SIZE).await > 0 {
            let (settlements, claim_permits): (Vec<_>, Vec<_>) = batch
                .drain(..)
                .map(|request| (request.settlement, request.claim_permit))
                .unzip();
            if let Err(SettleFailed) = self.settle(&settlements).await {
                for settlement in &settlements {
                    // `settle` logs a failure. The delivery is sent again when its lease expires.
                    let _failed = self.settle(std::slice::from_ref(settlement)).await;
                }
            }
            drop(claim_permits);
        }
    }

    /// Records the settlements in one transaction. Retries while the database is unavailable. Fails
    /// if a settlement is invalid, if the batch times out, or during shutdown.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), SettleFailed> {
        loop {
            let settling = self.outbox.settle(settlements);
            let error = match self.throttle.run(settling).await {
                Ok(settled) => {
                    self.count(settlements);
                    log_incomplete(&settled);
                    return Ok(());
                }
                Err(error) => error,
            };
            let deliveries = settlements.len();
            // During shutdown there are no retries. The leases expire, and the next process delivers again.
            let is_final = self.stop.is_cancelled()
                || !error.is_systemic()
                || is_too_slow(&error, settlements);
            if is_final {
                tracing::error!(
                    error = chain(&error),
                    deliveries,
                    "deliveries could not be settled; unsettled deliveries are sent again"
                );
                return Err(SettleFailed);
            }
            tracing::warn!(
                error = chain(&error),
                deliveries,
                "deliveries could not be settled, retrying"
            );
            let _cancelled = tokio::time::timeout(RETRY_DELAY, self.stop.cancelled()).await;
        }
    }

    fn count(&self, settlements: &[Settlement]) {
        for settlement in settlements {
            let attempted = match &settlement.result {
                LeaseResult::Attempted(attempted) => attempted,
                LeaseResult::GivenUp(_) => {
                    self.count_ended(&FAILED);
                    continue;
                }
                LeaseResult::Filtered | LeaseResult::Released { .. } => continue,
            };
            self.metrics.attempts.inc();
            match attempted.next_state {
                NextState::Delivered => self.count_ended(&DELIVERED),
                NextState::Failed => self.count_ended(&FAILED),
                NextState::RetryAfter(_) => {}
            }
        }
    }

    fn count_ended(&self, result: &DeliveryResult) {
        self.metrics.deliveries.get_or_create(result).inc();
    }
}

/// Logs lost leases, and attempts or alerts that the database suppressed.
fn log_incomplete(settled: &Settled) {
    if settled.lost_leases > 0 {
        tracing::warn!(
            lost = settled.lost_leases,
            "leases expired before their deliveries were settled; these deliveries are sent again"
        );
    }
    if let Some(error) = &settled.suppressed {
        tracing::error!(
            error = chain(error),
            "results of deliveries were stored, but the database suppressed attempts or alerts"
        );
    }
}

/// Returns whether a batch timed out. The same batch would time out again, but single settlements may succeed.
fn is_too_slow(error: &StoreError, settlements: &[Settlement]) -> bool {
    settlements.len() > 1 && matches!(error, StoreError::OperationTimeout { .. })
}
