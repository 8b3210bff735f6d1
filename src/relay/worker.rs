//! One endpoint's worker: leases what is due, has it sent, and hands on what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::PAUSED_BY_SETTING;
use super::endpoint::Endpoint;
use super::message::{Formed, Message};
use super::settling::Settled;
use super::sink::{Attempted, Sink};
use crate::clock::Clock;
use crate::domain::delivery::{DeliveryStatus, Next};
use crate::domain::timestamp::Timestamp;
use crate::setting::Switch;
use crate::store::{Claim, Leased, NewAttempt, Outbox, Settlement, StoreError};
use crate::telemetry::chain;

/// How often it is looked for what is due, whether or not anybody rang.
const POLL: Duration = Duration::from_secs(1);

/// How long a database that is away is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// How much longer than two calls a lease is: time to settle.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// After how many failures in a row an endpoint is left in peace: then it gets one call at a time, with a rest before each. What is for it
/// waits meanwhile, and is not given up unheard.
const FAILURES_BEFORE_REST: u32 = 5;

/// The first rest, and the longest; each is twice as long as the one before.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How many are claimed for each that may be under way: while some are on their way, the next are there.
const CLAIMED_FOR_EACH_CALL: usize = 2;

pub(super) struct Worker {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) clock: Arc<dyn Clock>,
    /// Rings when there may be something.
    pub(super) bell: Arc<Notify>,
    pub(super) settlements: mpsc::Sender<Settled>,
    pub(super) stop: CancellationToken,
    /// How many calls have failed since the last that did not.
    pub(super) failures: AtomicU32,
}

/// A lease, and when it is over by a clock that nobody sets.
#[derive(Clone)]
struct Lease {
    name: Arc<str>,
    ends: Instant,
}

impl Worker {
    /// Works until it is asked to stop, and what it is in has ended.
    pub(super) async fn run(self: Arc<Self>) {
        let stop = self.stop.clone();
        let deliveries = TaskTracker::new();
        stop.run_until_cancelled(self.work(&deliveries)).await;
        deliveries.close();
        deliveries.wait().await;
    }

    async fn work(self: &Arc<Self>, deliveries: &TaskTracker) {
        self.tell_whether_paused().await;
        if self.endpoint.paused == Switch::On {
            return std::future::pending().await;
        }
        let calls = Arc::new(Semaphore::new(self.endpoint.max_in_flight));
        let most = self.endpoint.max_in_flight * CLAIMED_FOR_EACH_CALL;
        let places = Arc::new(Semaphore::new(most));
        loop {
            let mut free = all_that_are_free(&places).await;
            let mut limit = free.num_permits();
            if let Some(rest) = self.rest() {
                if limit < most {
                    // What is under way may end the rest, or lengthen it.
                    drop(free);
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                tokio::time::sleep(rest).await;
                limit = 1;
            }
            let lease = self.new_lease();
            match self.claim(limit, &lease).await {
                Ok(leased) => {
                    let is_all = leased.len() < limit;
                    for leased in leased {
                        let place = free.split(1).expect("no more are leased than asked for");
                        let this = Arc::clone(self);
                        let (lease, calls) = (lease.clone(), Arc::clone(&calls));
                        deliveries.spawn(this.deliver(leased, lease, calls, place));
                    }
                    drop(free);
                    if is_all {
                        let _polled = tokio::time::timeout(POLL, self.bell.notified()).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        endpoint = self.endpoint.name,
                        error = chain(&error),
                        "deliveries could not be claimed; it is tried again"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A pause by the settings is known to whoever looks, and ends with the setting.
    async fn tell_whether_paused(&self) {
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
        if let Err(error) = told {
            tracing::warn!(
                endpoint = name,
                error = chain(&error),
                "whether the endpoint is paused could not be written down"
            );
        }
    }

    /// How long the endpoint is left in peace before its next call, if it is.
    fn rest(&self) -> Option<Duration> {
        let failures = self.failures.load(Ordering::Relaxed);
        let more = failures.checked_sub(FAILURES_BEFORE_REST)?;
        let rest = 2_u32
            .checked_pow(more)
            .and_then(|times| REST.checked_mul(times));
        Some(rest.unwrap_or(LONGEST_REST).min(LONGEST_REST))
    }

    fn count(&self, next: Next) {
        if next == Next::Delivered {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_lease(&self) -> Lease {
        Lease {
            name: Uuid::now_v7().simple().to_string().into(),
            ends: Instant::now() + self.lease_time(),
        }
    }

    /// One call's time to wait for the one before, one to be sent, and some to be settled.
    fn lease_time(&self) -> Duration {
        2 * self.endpoint.timeout + LEASE_MARGIN
    }

    async fn claim(&self, limit: usize, lease: &Lease) -> Result<Vec<Leased>, StoreError> {
        let now = self.clock.now();
        let claim = Claim {
            endpoint: &self.endpoint.name,
            limit,
            ordered: self.endpoint.ordered,
            now,
            until: now.saturating_add(self.lease_time()),
            lease: &lease.name,
        };
        self.outbox.claim(&claim).await
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

    /// Waits until the call may begin; `None` when it should not any more, because the service stops or the lease would run out.
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
        let latest = lease.ends.checked_sub(self.endpoint.timeout)?;
        let turn = tokio::time::timeout_at(latest, turn);
        self.stop.run_until_cancelled(turn).await?.ok()
    }

    /// As it was, for whoever comes next.
    fn given_back(&self, leased: &Leased, lease: Arc<str>) -> Settlement {
        let now = self.clock.now();
        let status = if leased.attempts == 0 {
            DeliveryStatus::Pending
        } else {
            DeliveryStatus::Retrying
        };
        Settlement {
            delivery: leased.id,
            lease,
            status,
            due_at: Some(now),
            now,
            attempt: None,
            sent: None,
        }
    }

    async fn attempt(&self, leased: Leased, lease: Arc<str>) -> Settlement {
        let number = leased.attempts.saturating_add(1);
        let (delivery, event_id) = (leased.id, leased.event_id);
        let (started_at, started) = (self.clock.now(), Instant::now());
        let formed = self.endpoint.form.form(leased.payload, leased.model).await;
        let (attempted, sent) = match formed {
            Ok(Formed::Unwanted) => return self.filtered(delivery, lease),
            Ok(Formed::Whole(text)) => (self.send(&event_id, text).await, None),
            Ok(Formed::Changed(text)) => (self.send(&event_id, text.clone()).await, Some(text)),
            Err(error) => (Attempted::unanswered(error.to_string()), None),
        };
        let duration = started.elapsed();
        let next = self
            .endpoint
            .retry
            .next(number, attempted.tried, fastrand::f64());
        self.count(next);
        if next != Next::Delivered {
            self.log_failure(&event_id, number, &attempted, next);
        }
        let now = self.clock.now();
        let (status, due_at) = self.what_follows(next, now).await;
        Settlement {
            delivery,
            lease,
            status,
            due_at,
            now,
            attempt: Some(NewAttempt {
                number,
                started_at,
                duration,
                status_code: attempted.status_code,
                error: attempted.error,
            }),
            sent,
        }
    }

    async fn send(&self, event_id: &str, text: String) -> Attempted {
        let message = Message {
            event_id: event_id.to_owned(),
            body: text.into(),
        };
        let sending = self.sink.send(&message);
        match tokio::time::timeout(self.endpoint.timeout, sending).await {
            Ok(attempted) => attempted,
            Err(_) => Attempted::unanswered(format!(
                "there was no whole answer within {} s",
                self.endpoint.timeout.as_secs()
            )),
        }
    }

    fn filtered(&self, delivery: i64, lease: Arc<str>) -> Settlement {
        Settlement {
            delivery,
            lease,
            status: DeliveryStatus::Filtered,
            due_at: None,
            now: self.clock.now(),
            attempt: None,
            sent: None,
        }
    }

    async fn what_follows(
        &self,
        next: Next,
        now: Timestamp,
    ) -> (DeliveryStatus, Option<Timestamp>) {
        match next {
            Next::Delivered => (DeliveryStatus::Delivered, None),
            Next::Retry(wait) => (DeliveryStatus::Retrying, Some(now.saturating_add(wait))),
            Next::GiveUp => (DeliveryStatus::GaveUp, None),
            Next::Pause => {
                let why = "it answered 410 Gone";
                if let Err(error) = self.outbox.pause(&self.endpoint.name, why, now).await {
                    tracing::warn!(
                        endpoint = self.endpoint.name,
                        error = chain(&error),
                        "the endpoint could not be paused; it is tried again with the next delivery"
                    );
                }
                (DeliveryStatus::Retrying, Some(now))
            }
        }
    }

    fn log_failure(&self, event: &str, attempt: u32, attempted: &Attempted, next: Next) {
        let endpoint = &self.endpoint.name;
        let (status, error) = (attempted.status_code, &attempted.error);
        match next {
            Next::Retry(wait) => tracing::info!(
                endpoint,
                event,
                attempt,
                status,
                error,
                "a delivery failed and is tried again in {} s",
                wait.as_secs()
            ),
            Next::Pause => tracing::warn!(
                endpoint,
                event,
                attempt,
                status,
                "the endpoint answered 410 Gone and is paused; `endpoints resume` goes on"
            ),
            Next::GiveUp | Next::Delivered => tracing::error!(
                endpoint,
                event,
                attempt,
                status,
                error,
                "a delivery failed and is given up; `deliveries replay` brings it back"
            ),
        }
    }
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
