//! Admission: the limits for one client, and the limits for all clients together.
//!
//! A client's own limits apply before authentication. The limits for all clients apply after it. So a client without the secret
//! cannot use up what the genuine sender needs.

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
use crate::web::client_key;

/// The interval between two removals of idle clients. Removing them limits the memory of the rate limiter.
const IDLE_CLIENT_REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum size of a small body, which needs no permit. Webhooks from Cloudflare are far smaller.
pub(super) const SMALL_BODY_BYTES: usize = 64 * 1024;

/// The maximum number of large bodies that are parsed and recorded at the same time. Parsed JSON needs several times the memory of
/// its text.
const MAX_LARGE_BODIES: usize = 64;

pub(super) struct Admission {
    /// The networks that may send webhooks. Empty means every network.
    allowed_networks: Networks,
    per_client: Option<DefaultKeyedRateLimiter<u128>>,
    total: Option<DefaultDirectRateLimiter>,
    in_flight: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
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
    /// Too many authenticated requests are in flight.
    TooManyInFlight,
    /// Too many large bodies of authenticated requests are in flight.
    TooManyLargeBodies,
}

/// The permits of an authenticated request. It is in flight until they are dropped.
pub(super) struct Permits {
    pub(super) in_flight: OwnedSemaphorePermit,
    /// The permit of a large body. It is held while the body or its parsed content is in memory.
    pub(super) large_body: Option<OwnedSemaphorePermit>,
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
            large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
            clock: DefaultClock::default(),
        })
    }

    /// Returns whether clients with this address may send webhooks.
    pub(super) fn allows(&self, client: IpAddr) -> bool {
        self.allowed_networks.is_empty() || self.allowed_networks.contains(client)
    }

    /// Checks the limits of one client, before its request is authenticated.
    pub(super) fn admit_client(&self, client: Option<IpAddr>) -> Result<(), AdmissionError> {
        let is_allowed = client.map_or(self.allowed_networks.is_empty(), |client| {
            self.allows(client)
        });
        if !is_allowed {
            return Err(AdmissionError::AddressNotAllowed);
        }
        if let (Some(per_client), Some(client)) = (&self.per_client, client) {
            per_client.check_key(&client_key(client)).map_err(|until| {
                AdmissionError::ClientRateLimited(until.wait_time_from(self.clock.now()))
            })?;
        }
        Ok(())
    }

    /// Checks the limits of all clients together, for an authenticated request with a body of this length.
    pub(super) fn admit_authenticated(
        &self,
        body_length: usize,
    ) -> Result<Permits, AdmissionError> {
        if let Some(total) = &self.total {
            total.check().map_err(|until| {
                AdmissionError::RateLimited(until.wait_time_from(self.clock.now()))
            })?;
        }
        let permit_of = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned();
        let in_flight = permit_of(&self.in_flight).map_err(|_| AdmissionError::TooManyInFlight)?;
        let large_body = (body_length > SMALL_BODY_BYTES)
            .then(|| permit_of(&self.large_bodies))
            .transpose()
            .map_err(|_| AdmissionError::TooManyLargeBodies)?;
        Ok(Permits {
            in_flight,
            large_body,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an admission with the default limits.
    fn admission() -> Admission {
        let defaults: toml::Table = include_str!("../../config/default.toml")
            .parse()
            .expect("the defaults are valid");
        let settings = defaults["webhook"].clone().try_into();
        let settings: Settings = settings.expect("the defaults are valid");
        Admission::new(&settings).unwrap_or_else(|invalid| panic!("{}", invalid.rule))
    }

    #[test]
    fn limits_large_bodies_in_memory() {
        let admission = admission();
        let mut admitted = Vec::new();
        for _ in 0..MAX_LARGE_BODIES {
            let permits = admission.admit_authenticated(SMALL_BODY_BYTES + 1);
            admitted.push(permits.map_err(drop).expect("a permit"));
        }

        let refused = admission
            .admit_authenticated(SMALL_BODY_BYTES + 1)
            .map(drop);
        let small = admission.admit_authenticated(SMALL_BODY_BYTES).map(drop);
        admitted.pop();
        let next = admission
            .admit_authenticated(SMALL_BODY_BYTES + 1)
            .map(drop);

        assert_eq!(refused, Err(AdmissionError::TooManyLargeBodies));
        assert_eq!((small, next), (Ok(()), Ok(())));
    }
}
