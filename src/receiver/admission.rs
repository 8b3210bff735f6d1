//! Admission: the address allow-list, the rate limits and the limit of requests in flight. It uses only the client address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use crate::config_types::{InvalidSetting, Networks};

/// The interval between two removals of idle clients. Removing them limits the memory of the rate limiter.
const IDLE_CLIENT_REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Admission {
    /// The networks that may send webhooks. Empty means every network.
    allowed_networks: Networks,
    per_client: Option<DefaultKeyedRateLimiter<u128>>,
    total: Option<DefaultDirectRateLimiter>,
    in_flight: Arc<Semaphore>,
    clock: DefaultClock,
}

/// The reason why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionError {
    /// The client address is in none of the allowed networks.
    AddressNotAllowed,
    /// This client is over its rate limit. The duration is the time until its next request is admitted.
    ClientRateLimited(Duration),
    /// All clients together are over the rate limit. The duration is the time until the next request is admitted.
    RateLimited(Duration),
    /// Too many requests are in flight.
    Overloaded,
}

impl Admission {
    pub(super) fn new(settings: &Settings) -> Result<Self, InvalidSetting> {
        let per_client = per_second(settings.client_rate_limit_per_second.count());
        let total = per_second(settings.rate_limit_per_second.count());
        Ok(Self {
            allowed_networks: settings.allowed_networks()?,
            per_client: per_client.map(RateLimiter::keyed),
            total: total.map(RateLimiter::direct),
            in_flight: Arc::new(Semaphore::new(settings.max_in_flight.count())),
            clock: DefaultClock::default(),
        })
    }

    /// Admits a request. It is in flight until the permit is dropped. A request over the rate limit of its client does not count
    /// towards the limit of all clients.
    pub(super) fn admit(
        &self,
        client: Option<IpAddr>,
    ) -> Result<OwnedSemaphorePermit, AdmissionError> {
        let is_allowed = self.allowed_networks.is_empty()
            || client.is_some_and(|client| self.allowed_networks.contains(client));
        if !is_allowed {
            return Err(AdmissionError::AddressNotAllowed);
        }
        if let (Some(per_client), Some(client)) = (&self.per_client, client) {
            per_client.check_key(&client_key(client)).map_err(|until| {
                AdmissionError::ClientRateLimited(until.wait_time_from(self.clock.now()))
            })?;
        }
        if let Some(total) = &self.total {
            total.check().map_err(|until| {
                AdmissionError::RateLimited(until.wait_time_from(self.clock.now()))
            })?;
        }
        Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map_err(|_| AdmissionError::Overloaded)
    }

    /// Removes idle clients from the rate limiter once per interval, until `stop`.
    pub(super) async fn remove_idle_clients(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(IDLE_CLIENT_REMOVAL_INTERVAL))
            .await
            .is_some()
        {
            if let Some(per_client) = &self.per_client {
                per_client.retain_recent();
            }
        }
    }
}

/// Returns a quota of `count` requests per second, with bursts of up to `count` requests. Returns `None` for 0: no limit.
fn per_second(count: usize) -> Option<Quota> {
    let count = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))?;
    Some(Quota::per_second(count))
}

/// Returns the key of a client: its IPv4 address, or the /64 network of its IPv6 address. Such a network belongs to one client
/// (RFC 6177).
fn client_key(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}
