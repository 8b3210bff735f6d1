//! One leased delivery: wait for a call slot, attempt or release it, and send the result to the settler.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::AttemptRunner;
use super::circuit_breaker::CircuitBreaker;
use super::purpose::Purpose;
use super::settler::{ClaimPermit, SettleRequest};
use crate::relay::endpoint::Endpoint;
use crate::store::{LeasedDelivery, Settlement};

/// The part of a lease that is reserved for the jq programs and for settling.
const TIME_FOR_JQ_AND_SETTLING: Duration = Duration::from_secs(15);

/// A lease on one or more deliveries.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) name: Arc<str>,
    /// The end of the lease, on the monotonic clock.
    pub(super) ends_at: Instant,
    pub(super) purpose: Purpose,
}

/// Attempts or releases the deliveries that an endpoint's worker claimed.
pub(super) struct Deliverer {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) breaker: Arc<CircuitBreaker>,
    pub(super) runner: AttemptRunner,
    /// One permit per concurrent call.
    pub(super) slots: Semaphore,
    pub(super) settlements: mpsc::Sender<SettleRequest>,
    pub(super) stop: CancellationToken,
    /// Ends the calls in progress.
    pub(super) cutoff: CancellationToken,
}

impl Deliverer {
    /// Attempts, releases or gives up a delivery, and sends the result to the settler.
    pub(super) async fn deliver(
        &self,
        leased: LeasedDelivery,
        lease: Lease,
        claim_permit: ClaimPermit,
    ) {
        let settlement = match self.runner.give_up(&leased, &lease.name) {
            Some(given_up) => given_up,
            None => match self.acquire_slot(&lease).await {
                Some(_slot) => self.attempt_or_release(leased, lease).await,
                None => self.runner.release(leased.id, leased.attempts, lease.name),
            },
        };
        let request = SettleRequest {
            settlement,
            claim_permit,
        };
        // The settler runs until every sender is dropped, so this fails only after a panic.
        let _settler_panicked = self.settlements.send(request).await;
    }

    /// Makes an attempt. Releases the delivery if the attempt has not ended at the cutoff. The endpoint may have received the
    /// message then, and receives it again.
    async fn attempt_or_release(&self, leased: LeasedDelivery, lease: Lease) -> Settlement {
        let (delivery, earlier_attempts) = (leased.id, leased.attempts);
        let name = Arc::clone(&lease.name);
        let attempt = self.runner.attempt(leased, name, lease.purpose);
        let ended = self.cutoff.run_until_cancelled(attempt).await;
        ended.unwrap_or_else(|| self.runner.release(delivery, earlier_attempts, lease.name))
    }

    /// Waits until the call may start. Returns `None` if it must not start: the service stops, the
    /// lease could expire during the call, or the circuit breaker opens.
    async fn acquire_slot(&self, lease: &Lease) -> Option<SemaphorePermit<'_>> {
        let slot = async {
            let slot = self.slots.acquire().await;
            let slot = slot.expect("the semaphore is never closed");
            self.endpoint.wait_for_rate_limit().await;
            slot
        };
        let latest_start = lease
            .ends_at
            .checked_sub(self.endpoint.timeout + TIME_FOR_JQ_AND_SETTLING)?;
        let slot = tokio::time::timeout_at(latest_start, slot);
        let slot = async {
            match lease.purpose {
                Purpose::Probe | Purpose::PauseProbe => slot.await.ok(),
                Purpose::Deliver => tokio::select! {
                    biased;
                    slot = slot => slot.ok().filter(|_| self.breaker.cooldown().is_none()),
                    () = self.breaker.opened() => None,
                },
            }
        };
        self.stop.run_until_cancelled(slot).await?
    }
}
