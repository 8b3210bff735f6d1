//! One endpoint's worker: leases what is due, has it sent, and hands on what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PAUSED_BY_SETTING;
use super::endpoint::Endpoint;
use super::health::Health;
use super::notices::Notices;
use super::right_of_way::RightOfWay;
use super::settling::Settled;
use crate::clock::Clock;
use crate::random;
use crate::setting::Switch;
use crate::store::{Claim, Leased, Outbox, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::RelayMetrics;

/// How often it is looked for what is due, whether or not anybody rang.
const POLL: Duration = Duration::from_secs(1);

/// How long a database that is away is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// How much longer than two calls a lease is: time to settle.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How much of a lease is left for what comes beside the call: the endpoint's own programs, and settling.
const TIME_TO_SETTLE: Duration = Duration::from_secs(15);

/// How many are claimed for each that may be under way: while some are on their way, the next are there.
const CLAIMED_FOR_EACH_CALL: usize = 2;

pub(super) struct Worker {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) clock: Arc<dyn Clock>,
    /// Rings when there may be something.
    pub(super) bell: Arc<Notify>,
    pub(super) settlements: mpsc::Sender<Settled>,
    /// Where deliveries are worked on: on threads that stand back. Claiming and settling are not, since a database that is held by somebody
    /// who stands back is one that all others wait for.
    pub(super) calls: Handle,
    /// Where everything else is.
    pub(super) main: Handle,
    pub(super) right_of_way: Arc<RightOfWay>,
    pub(super) stop: CancellationToken,
    pub(super) health: Health,
    pub(super) notices: Notices,
    pub(super) metrics: RelayMetrics,
}

/// A lease, and when it is over by a clock that nobody sets.
#[derive(Clone)]
struct Lease {
    name: Arc<str>,
    ends: Instant,
    /// Whether it is of one delivery by which is seen whether the endpoint has recovered.
    is_probe: bool,
}

impl Worker {
    /// Works until it is asked to stop, and what it is in has ended.
    pub(super) async fn run(self: Arc<Self>) {
        let deliveries = TaskTracker::new();
        self.work(&deliveries).await;
        deliveries.close();
        deliveries.wait().await;
    }

    /// Only waits are cut short by a stop, and never a claim: what is leased is delivered or given back.
    async fn work(self: &Arc<Self>, deliveries: &TaskTracker) {
        while !self.tell_whether_paused().await {
            if self
                .unless_stopped(tokio::time::sleep(PAUSE))
                .await
                .is_none()
            {
                return;
            }
        }
        if self.endpoint.paused == Switch::On {
            return self.stop.cancelled().await;
        }
        let calls = Arc::new(Semaphore::new(self.endpoint.max_in_flight));
        let most = self.endpoint.max_in_flight * CLAIMED_FOR_EACH_CALL;
        let places = Arc::new(Semaphore::new(most));
        while let Some(mut free) = self.unless_stopped(all_that_are_free(&places)).await {
            let mut limit = free.num_permits();
            let mut is_probe = false;
            if let Some(rest) = self.health.rest() {
                if limit < most {
                    // What is under way may end the rest, or lengthen it.
                    drop(free);
                    self.unless_stopped(all(&places, most)).await;
                    continue;
                }
                self.unless_stopped(tokio::time::sleep(rest)).await;
                self.health.has_rested();
                (limit, is_probe) = (1, true);
            }
            if self.stop.is_cancelled() {
                return;
            }
            match self.right_of_way.give(self.claim(limit, is_probe)).await {
                Ok((lease, leased)) => {
                    let is_all = leased.len() < limit;
                    for leased in leased {
                        let place = free.split(1).expect("no more are leased than asked for");
                        let this = Arc::clone(self);
                        let (lease, calls) = (lease.clone(), Arc::clone(&calls));
                        let delivery = this.deliver(leased, lease, calls, place);
                        deliveries.spawn_on(delivery, &self.calls);
                    }
                    drop(free);
                    if is_all {
                        let rung = tokio::time::timeout(POLL, self.bell.notified());
                        self.unless_stopped(rung).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        endpoint = self.endpoint.name,
                        error = chain(&error),
                        "deliveries could not be claimed; it is tried again"
                    );
                    self.unless_stopped(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
    }

    /// `None` when it is asked to stop.
    async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(wait).await
    }

    /// A pause by the settings is known to whoever looks, and ends with the setting. Whether that could be written down.
    async fn tell_whether_paused(&self) -> bool {
        let name = &self.endpoint.name;
        let told = match self.endpoint.paused {
            Switch::On => {
                let now = self.clock.now();
                self.outbox.pause(name, PAUSED_BY_SETTING, now).await
            }
            Switch::Off => {
                let resumed = self.outbox.resume(name, Some(PAUSED_BY_SETTING)).await;
                resumed.map(drop)
            }
        };
        if let Err(error) = &told {
            tracing::warn!(
                endpoint = name,
                error = chain(error),
                "whether the endpoint is paused could not be written down; it is tried again"
            );
        }
        told.is_ok()
    }

    fn new_lease(&self, is_probe: bool) -> Lease {
        Lease {
            name: random::uuid_v7().simple().to_string().into(),
            ends: Instant::now() + self.lease_time(),
            is_probe,
        }
    }

    /// One call's time to wait for the one before, one to be sent, and some to be settled.
    fn lease_time(&self) -> Duration {
        2 * self.endpoint.timeout + LEASE_MARGIN
    }

    /// The lease begins here, and not before anything was waited for.
    async fn claim(
        &self,
        limit: usize,
        is_probe: bool,
    ) -> Result<(Lease, Vec<Leased>), StoreError> {
        let lease = self.new_lease(is_probe);
        let now = self.clock.now();
        let claim = Claim {
            endpoint: &self.endpoint.name,
            limit,
            ordered: self.endpoint.ordered,
            now,
            until: now.saturating_add(self.lease_time()),
            lease: &lease.name,
        };
        let leased = self.outbox.claim(&claim).await?;
        self.metrics.claims.inc();
        Ok((lease, leased))
    }

    async fn deliver(
        self: Arc<Self>,
        leased: Leased,
        lease: Lease,
        calls: Arc<Semaphore>,
        place: OwnedSemaphorePermit,
    ) {
        let settlement = match self.its_turn(&calls, &lease).await {
            Some(_call) => self.attempt(leased, lease.name).await,
            None => self.given_back(&leased, lease.name),
        };
        // The settler is there for as long as anybody could bring it something.
        let _settler_panicked = self.settlements.send(Settled { settlement, place }).await;
    }

    /// Waits until the call may begin; `None` when it should not any more, because the service stops, the lease would run out, or the endpoint
    /// has begun to fail and is left in peace.
    async fn its_turn(
        &self,
        calls: &Arc<Semaphore>,
        lease: &Lease,
    ) -> Option<OwnedSemaphorePermit> {
        let turn = async {
            let call = Arc::clone(calls).acquire_owned().await;
            let call = call.expect("nobody closes the semaphore");
            self.endpoint.rate_allows().await;
            call
        };
        let latest = lease
            .ends
            .checked_sub(self.endpoint.timeout + TIME_TO_SETTLE)?;
        let turn = tokio::time::timeout_at(latest, turn);
        let turn = async {
            if lease.is_probe {
                return turn.await.ok();
            }
            tokio::select! {
                biased;
                turn = turn => turn.ok().filter(|_| self.health.rest().is_none()),
                () = self.health.begins_to_rest() => None,
            }
        };
        self.stop.run_until_cancelled(turn).await?
    }
}

/// Waits until all of so many places are free.
async fn all(places: &Arc<Semaphore>, most: usize) {
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    drop(places.acquire_many(most).await);
}

/// Every place that is free, at least one.
async fn all_that_are_free(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let first = Arc::clone(places).acquire_owned().await;
    let mut free = first.expect("nobody closes the semaphore");
    let more = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
    // This task alone takes places, so that those that are free stay so.
    if let Ok(more) = Arc::clone(places).try_acquire_many_owned(more) {
        free.merge(more);
    }
    free
}
