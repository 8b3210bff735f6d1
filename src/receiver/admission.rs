//! The door before the gate: from where, how often, and how many at once. Nothing of a request is read here but where it comes from.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::setting::{InvalidSetting, Networks};

/// How often clients are forgotten that have not sent for a while, so that the memory of them is bounded.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Who is let in.
pub(crate) struct Admission {
    /// From where webhooks are taken; from everywhere, if these are none.
    allowed: Networks,
    /// By what stands for a client.
    each: Option<DefaultKeyedRateLimiter<u128>>,
    all: Option<DefaultDirectRateLimiter>,
    in_flight: Arc<Semaphore>,
    clock: DefaultClock,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// The address may not send webhooks.
    FromElsewhere,
    /// This client sent too many lately; its next would be let in after so long.
    ClientTooOften(Duration),
    /// There were too many lately from all clients together; the next would be let in after so long.
    TooOften(Duration),
    /// There are too many at this moment.
    TooManyAtOnce,
}

impl Admission {
    pub(super) fn new(settings: &Settings) -> Result<Self, InvalidSetting> {
        let each = per_second(settings.client_rate_limit_per_second.count());
        let all = per_second(settings.rate_limit_per_second.count());
        Ok(Self {
            allowed: settings.allowed()?,
            each: each.map(RateLimiter::keyed),
            all: all.map(RateLimiter::direct),
            in_flight: Arc::new(Semaphore::new(settings.max_in_flight.count())),
            clock: DefaultClock::default(),
        })
    }

    /// Lets a request in, which has its place until the permit is dropped. One that its own client sends too often takes nothing from
    /// what all others may send.
    pub(super) fn admit(
        &self,
        client: Option<IpAddr>,
    ) -> Result<OwnedSemaphorePermit, NotAdmitted> {
        let is_allowed =
            self.allowed.is_empty() || client.is_some_and(|client| self.allowed.contain(client));
        if !is_allowed {
            return Err(NotAdmitted::FromElsewhere);
        }
        if let (Some(each), Some(client)) = (&self.each, client) {
            each.check_key(&key(client)).map_err(|until| {
                NotAdmitted::ClientTooOften(until.wait_time_from(self.clock.now()))
            })?;
        }
        if let Some(all) = &self.all {
            all.check()
                .map_err(|until| NotAdmitted::TooOften(until.wait_time_from(self.clock.now())))?;
        }
        Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map_err(|_| NotAdmitted::TooManyAtOnce)
    }

    /// Forgets who has not sent for a while, until it is asked to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(FORGET_EVERY))
            .await
            .is_some()
        {
            if let Some(each) = &self.each {
                each.retain_recent();
            }
        }
    }
}

/// So many in a second, and as many at once; 0: any number.
fn per_second(count: usize) -> Option<Quota> {
    let count = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))?;
    Some(Quota::per_second(count))
}

/// What stands for a client: its address, or the 64 bits of IPv6 that one client has for itself (RFC 6177).
fn key(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}
