//! The worker of one endpoint: claims due deliveries under a lease and starts to deliver them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alerts::Alerts;
use super::attempt::{AttemptRunner, PAUSED_BY_ENDPOINT};
use super::circuit_breaker::CircuitBreaker;
use super::delivery::{Deliverer, Lease};
use super::pause_check::PauseCheck;
use super::purpose::Purpose;
use super::settler::{ClaimPermit, SettleRequest};
use super::throttle::RelayThrottle;
use crate::clock::Clock;
use crate::random;
use crate::relay::endpoint::Endpoint;
use crate::store::{Claim, Claimed, ExpiredLeases, Outbox, Pause, PauseProbe, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::RelayMetrics;

/// The stored reason of a pause by the setting `paused`.
pub(crate) const PAUSED_BY_SETTING: &str = "paused by the configuration";

/// The longest wait between claims. Events that another process records cause no wake-up here.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The wait before the next try while the database is unavailable.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The time between probes of an endpoint that answered 410.
const PAUSE_PROBE_INTERVAL: Duration = Duration::from_hours(1);

/// The part of a lease in addition to the time of two calls.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// The number of postponed deliveries that one statement makes due.
const RELEASED_PER_PAGE: u32 = 1000;

/// The number of claimed deliveries per concurrent call. When a call ends, the next delivery is ready.
const CLAIMED_PER_CALL: usize = 2;

/// The parts that all workers share.
#[derive(Clone)]
pub(in crate::relay) struct WorkerContext {
    pub(in crate::relay) outbox: Arc<dyn Outbox>,
    pub(in crate::relay) clock: Arc<dyn Clock>,
    pub(in crate::relay) settlements: mpsc::Sender<SettleRequest>,
    pub(in crate::relay) throttle: Arc<RelayThrottle>,
    pub(in crate::relay) metrics: RelayMetrics,
    /// The runtime for claims and other database operations.
    pub(in crate::relay) main_runtime: Handle,
    /// The runtime for calls.
    pub(in crate::relay) low_priority_runtime: Handle,
    pub(in crate::relay) stop: CancellationToken,
    pub(in crate::relay) cutoff: CancellationToken,
}

/// The worker of one endpoint.
pub(in crate::relay) struct Worker {
    endpoint: Arc<Endpoint>,
    breaker: Arc<CircuitBreaker>,
    deliverer: Arc<Deliverer>,
    /// The permit for the one delivery whose lease expired.
    expired_permit: Arc<Semaphore>,
    /// Wakes the worker when this process has recorded events for the endpoint.
    wakeup: Arc<Notify>,
    context: WorkerContext,
}

impl Worker {
    pub(in crate::relay) fn new(
        endpoint: Arc<Endpoint>,
        alerts: Alerts,
        wakeup: Arc<Notify>,
        context: WorkerContext,
    ) -> Self {
        let breaker = Arc::new(CircuitBreaker::default());
        let runner = AttemptRunner {
            endpoint: Arc::clone(&endpoint),
            breaker: Arc::clone(&breaker),
            alerts,
            outbox: Arc::clone(&context.outbox),
            clock: Arc::clone(&context.clock),
            main_runtime: context.main_runtime.clone(),
        };
        let deliverer = Deliverer {
            endpoint: Arc::clone(&endpoint),
            breaker: Arc::clone(&breaker),
            runner,
            slots: Semaphore::new(endpoint.max_in_flight),
            settlements: context.settlements.clone(),
            stop: context.stop.clone(),
            cutoff: context.cutoff.clone(),
        };
        Self {
            endpoint,
            breaker,
            deliverer: Arc::new(deliverer),
            expired_permit: Arc::new(Semaphore::new(1)),
            wakeup,
            context,
        }
    }

    /// Claims until the service stops. Then waits for the deliveries in progress.
    pub(in crate::relay) async fn run(self) {
        let deliveries = TaskTracker::new();
        self.claim_until_stopped(&deliveries).await;
        deliveries.close();
        deliveries.wait().await;
    }

    /// Claims until the service stops. A stop interrupts waits but not claims, so every claimed
    /// delivery is attempted or released.
    async fn claim_until_stopped(&self, deliveries: &TaskTracker) {
        while self.sync_pause().await.is_err() {
            let delay = tokio::time::sleep(RETRY_DELAY);
            if self.or_cancelled(delay).await.is_none() {
                return;
            }
        }
        if self.endpoint.is_paused {
            return self.context.stop.cancelled().await;
        }
        if !self.endpoint.is_ordered {
            self.release_postponed().await;
        }
        let capacity = self.endpoint.max_in_flight * CLAIMED_PER_CALL;
        let claim_permits = Arc::new(Semaphore::new(capacity));
        let mut pause_check = PauseCheck::default();
        while let Some(permits) = self.or_cancelled(acquire_available(&claim_permits)).await {
            let mut limit = permits.num_permits();
            let mut purpose = Purpose::Deliver;
            if let Some(cooldown) = self.breaker.cooldown() {
                if limit < capacity {
                    // Waits for the calls in progress. Their results may close the breaker or prolong the cooldown.
                    drop(permits);
                    self.or_cancelled(acquire_all(&claim_permits, capacity))
                        .await;
                    continue;
                }
                self.or_cancelled(tokio::time::sleep(cooldown)).await;
                self.breaker.mark_cooled_down();
                (limit, purpose) = (1, Purpose::Probe);
            }
            if self.context.stop.is_cancelled() {
                return;
            }
            self.claim_once(limit, purpose, permits, deliveries, &mut pause_check)
                .await;
        }
    }

    /// Claims up to `limit` deliveries and starts to deliver them. Waits if there are no more.
    async fn claim_once(
        &self,
        limit: usize,
        purpose: Purpose,
        mut permits: OwnedSemaphorePermit,
        deliveries: &TaskTracker,
        pause_check: &mut PauseCheck,
    ) {
        let mut expired_permit = Arc::clone(&self.expired_permit).try_acquire_owned().ok();
        let expired_leases = match &expired_permit {
            Some(_) => ExpiredLeases::One,
            None => ExpiredLeases::None,
        };
        let claiming = async {
            let claimed = self.claim(limit, purpose, expired_leases).await?;
            if claimed.1.leased.is_empty() && pause_check.is_due() {
                return self.claim(1, Purpose::PauseProbe, expired_leases).await;
            }
            Ok(claimed)
        };
        let (lease, claimed) = match self.context.throttle.run(claiming).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(
                    endpoint = self.endpoint.name,
                    error = chain(&error),
                    "deliveries could not be claimed, retrying"
                );
                self.or_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
                return;
            }
        };
        let Claimed {
            leased,
            postponed,
            suppressed,
        } = claimed;
        if suppressed > 0 {
            tracing::error!(
                endpoint = self.endpoint.name,
                suppressed,
                "the database suppressed the claim of due deliveries; check the triggers of relay_deliveries"
            );
        }
        // Suppressed deliveries stay due. Without a wait, the worker would claim them again and again.
        let is_drained = suppressed > 0 || (leased.len() < limit && postponed == 0);
        let has_expired = expired_permit.is_none() || leased.iter().any(|one| one.lease_expired);
        for leased in leased {
            let permit = ClaimPermit {
                claimed: permits.split(1).expect("a claim returns at most `limit`"),
                expired: expired_permit.take_if(|_| leased.lease_expired),
            };
            let (deliverer, lease) = (Arc::clone(&self.deliverer), lease.clone());
            let delivery = async move { deliverer.deliver(leased, lease, permit).await };
            deliveries.spawn_on(delivery, &self.context.low_priority_runtime);
        }
        drop((permits, expired_permit));
        if is_drained {
            self.or_cancelled(self.wait_for_due_deliveries(has_expired))
                .await;
        }
    }

    /// Waits until deliveries may be due: until a wake-up or the next poll. If the worker has a delivery whose lease expired, at
    /// most until that one is settled, because others may follow it.
    async fn wait_for_due_deliveries(&self, has_expired: bool) {
        let wakeup = async {
            tokio::select! {
                () = self.wakeup.notified() => {}
                _permit = self.expired_permit.acquire(), if has_expired => {}
            }
        };
        let _polls = tokio::time::timeout(POLL_INTERVAL, wakeup).await;
    }

    /// Makes postponed deliveries due, page by page. They were postponed while the endpoint was ordered.
    async fn release_postponed(&self) {
        let (outbox, name) = (&self.context.outbox, &self.endpoint.name);
        while !self.context.stop.is_cancelled() {
            let now = self.context.clock.read();
            let releasing = outbox.release_postponed(name, now, RELEASED_PER_PAGE);
            let error = match self.context.throttle.run(releasing).await {
                Ok(released) if released < u64::from(RELEASED_PER_PAGE) => return,
                Ok(_) => continue,
                Err(error) => error,
            };
            tracing::warn!(
                endpoint = name,
                error = chain(&error),
                "postponed deliveries could not be made due, retrying"
            );
            self.or_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
        }
    }

    /// Waits for a future. Returns `None` if the service stops first.
    async fn or_cancelled<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.context.stop.run_until_cancelled(future).await
    }

    /// Records in the database whether the configuration pauses the endpoint. `endpoints list` shows the pause.
    async fn sync_pause(&self) -> Result<(), StoreError> {
        let name = &self.endpoint.name;
        let synced = if self.endpoint.is_paused {
            let pause = Pause {
                endpoint: name,
                reason: PAUSED_BY_SETTING,
                now: self.context.clock.read(),
                alert: None,
            };
            self.context.outbox.pause(&pause).await.map(drop)
        } else {
            let resumed = self
                .context
                .outbox
                .resume(name, Some(PAUSED_BY_SETTING))
                .await;
            resumed.map(drop)
        };
        if let Err(error) = &synced {
            tracing::warn!(
                endpoint = name,
                error = chain(error),
                "configured pause of the endpoint could not be recorded or removed, retrying"
            );
        }
        synced
    }

    /// Claims due deliveries under a new lease. The lease starts here, after the throttle's backoff.
    async fn claim(
        &self,
        limit: usize,
        purpose: Purpose,
        expired_leases: ExpiredLeases,
    ) -> Result<(Lease, Claimed), StoreError> {
        // The time of one call to wait for a slot, the time of the call itself, and a margin.
        let duration = 2 * self.endpoint.timeout + LEASE_MARGIN;
        let lease = Lease {
            name: random::uuid_v7().simple().to_string().into(),
            ends_at: Instant::now() + duration,
            purpose,
        };
        let claim = Claim {
            endpoint: &self.endpoint.name,
            limit,
            ordered: self.endpoint.is_ordered,
            ignores_pause: false,
            expired_leases,
            now: self.context.clock.read(),
            duration,
            lease: &lease.name,
        };
        let outbox = &self.context.outbox;
        let claimed = match purpose {
            Purpose::Deliver | Purpose::Probe => outbox.claim(&claim).await?,
            Purpose::PauseProbe => {
                let probe = PauseProbe {
                    reason: PAUSED_BY_ENDPOINT,
                    interval: PAUSE_PROBE_INTERVAL,
                };
                let claimed = outbox.claim_probe(&probe, &claim).await?;
                return Ok((lease, claimed));
            }
        };
        self.context.metrics.claims.inc();
        Ok((lease, claimed))
    }
}

/// Waits until all permits are available.
async fn acquire_all(permits: &Semaphore, capacity: usize) {
    let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
    drop(permits.acquire_many(capacity).await);
}

/// Acquires every available permit. Waits until there is at least one.
async fn acquire_available(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let first = Arc::clone(permits).acquire_owned().await;
    let mut acquired = first.expect("the semaphore is never closed");
    let available = u32::try_from(permits.available_permits()).unwrap_or(u32::MAX);
    // Only this task acquires permits, so available permits stay available.
    if let Ok(more) = Arc::clone(permits).try_acquire_many_owned(available) {
        acquired.merge(more);
    }
    acquired
}
