//! Settling: what came of many tries is recorded in one transaction.
//!
//! There is no timer, as there is none for recording: what ended while the last transaction committed is in the next one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::right_of_way::RightOfWay;
use crate::domain::delivery::DeliveryStatus;
use crate::store::{Outbox, Settlement, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::RelayMetrics;

/// How many are settled in one transaction.
const BATCH: usize = 256;

/// How many wait to be settled before those who bring them wait. Their places are taken until they are settled, so that an endpoint has
/// no more of them than it may have claimed.
const QUEUE: usize = 1024;

/// How long to wait for a database that is away. What is not settled when its lease runs out is delivered again.
const PAUSE: Duration = Duration::from_secs(1);

/// What came of a delivery, and its place among the claimed ones.
pub(super) struct Settled {
    pub(super) settlement: Settlement,
    pub(super) place: OwnedSemaphorePermit,
}

/// The same batch would take as long again.
fn is_too_much(error: &StoreError, settlements: &[Settlement]) -> bool {
    settlements.len() > 1 && matches!(error, StoreError::OperationTimeout { .. })
}

/// It is not known what came of some deliveries.
struct Unsettled;

/// Records what came of deliveries, of all endpoints.
pub(super) struct Settler {
    outbox: Arc<dyn Outbox>,
    right_of_way: Arc<RightOfWay>,
    metrics: RelayMetrics,
    settled: mpsc::Receiver<Settled>,
    stop: CancellationToken,
}

impl Settler {
    pub(super) fn new(
        outbox: Arc<dyn Outbox>,
        right_of_way: Arc<RightOfWay>,
        metrics: RelayMetrics,
        stop: CancellationToken,
    ) -> (Self, mpsc::Sender<Settled>) {
        let (sender, settled) = mpsc::channel(QUEUE);
        let settler = Self {
            outbox,
            right_of_way,
            metrics,
            settled,
            stop,
        };
        (settler, sender)
    }

    /// Settles until nobody is left who brings anything.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.settled.recv_many(&mut batch, BATCH).await > 0 {
            let (settlements, places): (Vec<_>, Vec<_>) = batch
                .drain(..)
                .map(|settled| (settled.settlement, settled.place))
                .unzip();
            if let Err(Unsettled) = self.settle(&settlements).await {
                for settlement in &settlements {
                    // What cannot be settled for its own sake is delivered again when its lease runs out, and was logged.
                    let _unsettled = self.settle(std::slice::from_ref(settlement)).await;
                }
            }
            drop(places);
        }
    }

    /// Fails where something is wrong with one of them, or when there is no time left to try again.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), Unsettled> {
        loop {
            match self
                .right_of_way
                .give(self.outbox.settle(settlements))
                .await
            {
                Ok(lost) => {
                    self.count(settlements);
                    if lost > 0 {
                        tracing::warn!(
                            lost,
                            "deliveries were settled after their leases had run out: they are delivered again"
                        );
                    }
                    return Ok(());
                }
                // Whoever starts next finds the leases run out.
                Err(error)
                    if self.stop.is_cancelled()
                        || !error.is_systemic()
                        || is_too_much(&error, settlements) =>
                {
                    let deliveries = settlements.len();
                    tracing::error!(
                        error = chain(&error),
                        deliveries,
                        "deliveries could not be settled: what is not settled is delivered again"
                    );
                    return Err(Unsettled);
                }
                Err(error) => {
                    let deliveries = settlements.len();
                    tracing::warn!(
                        error = chain(&error),
                        deliveries,
                        "deliveries could not be settled; it is tried again"
                    );
                    let _stopped = tokio::time::timeout(PAUSE, self.stop.cancelled()).await;
                }
            }
        }
    }

    fn count(&self, settlements: &[Settlement]) {
        for settlement in settlements {
            let attempts = u64::from(settlement.attempt.is_some());
            self.metrics.attempts.inc_by(attempts);
            match settlement.status {
                DeliveryStatus::Delivered => drop(self.metrics.delivered.inc()),
                DeliveryStatus::GaveUp => drop(self.metrics.gave_up.inc()),
                _ => {}
            }
        }
    }
}
