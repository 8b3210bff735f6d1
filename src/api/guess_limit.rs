//! The limit on wrong tokens of one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::web::client_key;

/// The maximum number of clients that are remembered. Further ones are not limited until others are forgotten: a token has at least
/// 16 characters, so guesses from many addresses fail too.
const MAX_CLIENTS: usize = 10_000;

/// The time for which wrong tokens are counted.
const PERIOD: Duration = Duration::from_mins(1);

/// A limit on wrong tokens (generic cell rate algorithm). A client that exceeds it is refused before its token is compared.
pub(super) struct GuessLimit {
    quota: Option<Quota>,
    /// For each client, the time at which all its wrong tokens are forgotten.
    clients: Mutex<HashMap<u128, Instant>>,
}

#[derive(Clone, Copy)]
struct Quota {
    /// The time for which one wrong token counts.
    interval: Duration,
    /// How far the time in the table may be ahead.
    tolerance: Duration,
}

impl GuessLimit {
    /// Creates a limit of this number per minute. 0 means no limit.
    pub(super) fn per_minute(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let quota = (count > 0).then(|| {
            let interval = PERIOD / count;
            Quota {
                interval,
                tolerance: PERIOD.saturating_sub(interval),
            }
        });
        Self {
            quota,
            clients: Mutex::default(),
        }
    }

    /// Returns the time until the next request of this client is admitted. `None` means now.
    pub(super) fn wait(&self, client: IpAddr) -> Option<Duration> {
        let quota = self.quota?;
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten_at = *clients.get(&client_key(client))?;
        let ahead = forgotten_at.saturating_duration_since(Instant::now());
        let wait = ahead.saturating_sub(quota.tolerance);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a wrong token.
    pub(super) fn count(&self, client: IpAddr) {
        let Some(quota) = self.quota else {
            return;
        };
        let now = Instant::now();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.retain(|_, forgotten_at| *forgotten_at > now);
        }
        let is_full = clients.len() >= MAX_CLIENTS;
        let key = client_key(client);
        if is_full && !clients.contains_key(&key) {
            return;
        }
        let forgotten_at = clients.entry(key).or_insert(now);
        *forgotten_at = (*forgotten_at).max(now) + quota.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_client_over_its_limit() {
        let limit = GuessLimit::per_minute(3);
        let mut admitted = 0;
        while limit.wait(client(1)).is_none() {
            admitted += 1;
            limit.count(client(1));
        }
        let wait = limit.wait(client(1));
        tokio::time::advance(Duration::from_secs(20)).await;

        assert_eq!((admitted, wait), (3, Some(Duration::from_secs(20))));
        assert_eq!(limit.wait(client(2)), None);
        assert_eq!(limit.wait(client(1)), None);
        limit.count(client(1));
        assert_eq!(limit.wait(client(1)), Some(Duration::from_secs(20)));
    }

    #[tokio::test(start_paused = true)]
    async fn remembers_limited_number_of_clients() {
        let limit = GuessLimit::per_minute(1);
        for number in 0..20_000 {
            limit.count(client(number));
        }
        let remembered = || limit.clients.lock().expect("no panic").len();
        let before = remembered();
        tokio::time::advance(PERIOD).await;
        limit.count(client(0));

        assert_eq!((before, remembered()), (MAX_CLIENTS, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_means_no_limit() {
        let limit = GuessLimit::per_minute(0);
        for _ in 0..1000 {
            limit.count(client(1));
        }

        assert_eq!(limit.wait(client(1)), None);
    }
}
