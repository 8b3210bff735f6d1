//! Counts refused requests by minute and client network. A request only changes memory; the counts are written once a minute.
//!
//! The number of rows is bounded: during a flood at most 1,000 rows at first, then 20 per minute. Old rows are deleted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::outcome::RejectionReason;
use crate::domain::timestamp::Timestamp;
use crate::signing::Scheme;
use crate::store::{RefusalCount, Rejections};
use crate::telemetry::chain;

/// The most rows that one process writes for a minute. Requests from further networks are added to the row `*`.
const MAX_ROWS: usize = 1000;

/// The rows per minute of a flood that does not end. In the default retention of 90 days these are 2.6 million rows, some hundreds
/// of megabytes.
const ROWS_PER_MINUTE: usize = 20;

/// The rows `*` of a minute: one for each reason.
const ROWS_FOR_OTHER_NETWORKS: usize = 2;

/// The most networks that a minute tells apart. Memory holds no more counts than that, beside the rows `*`.
const MAX_NETWORKS: usize = MAX_ROWS - ROWS_FOR_OTHER_NETWORKS;

/// The networks that each new minute adds to the budget, up to [`MAX_NETWORKS`].
const NETWORKS_PER_MINUTE: usize = ROWS_PER_MINUTE - ROWS_FOR_OTHER_NETWORKS;

/// The network that stands for all networks over the budget.
const OTHER_NETWORKS: &str = "*";

/// The time between two looks for minutes that are over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct RefusalCounter {
    counts: Mutex<Counts>,
    clock: Arc<dyn Clock>,
}

struct Counts {
    by_key: HashMap<CounterKey, i64>,
    /// The budget: how many more networks get a row of their own.
    network_budget: usize,
    /// The minute of the last count.
    latest_minute: i64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            network_budget: MAX_NETWORKS,
            latest_minute: i64::MIN,
        }
    }
}

/// The key under which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CounterKey {
    /// The minute's first second, in Unix seconds.
    minute: i64,
    reason: RejectionReason,
    scheme: &'static str,
    network: String,
}

impl RefusalCounter {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            counts: Mutex::default(),
            clock,
        }
    }

    pub(super) fn count(
        &self,
        reason: RejectionReason,
        at: Timestamp,
        scheme: Option<Scheme>,
        client: Option<IpAddr>,
    ) {
        let key = CounterKey {
            minute: start_of_minute(at),
            reason,
            scheme: scheme.map_or("", Scheme::name),
            network: client.map(client_network).unwrap_or_default(),
        };
        self.lock().count(key);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes each minute when it is over, and the last one after the last request.
    pub(super) async fn run(
        self: Arc<Self>,
        rejections: Arc<dyn Rejections>,
        last_request: impl Future<Output = ()>,
    ) {
        let mut last_request = pin!(last_request);
        while timeout(CHECK_INTERVAL, &mut last_request).await.is_err() {
            self.write(&*rejections, start_of_minute(self.clock.now()))
                .await;
        }
        self.write(&*rejections, i64::MAX).await;
    }

    /// Writes the minutes before this one.
    async fn write(&self, rejections: &dyn Rejections, before: i64) {
        let finished: Vec<(CounterKey, i64)> = {
            let mut counts = self.lock();
            // A minute far ahead was counted before the clock was set back.
            let max_minute = before.saturating_add(60);
            let finished = counts
                .by_key
                .extract_if(|key, _| key.minute < before || key.minute > max_minute);
            finished.collect()
        };
        if finished.is_empty() {
            return;
        }
        let refusals: Vec<RefusalCount> = finished
            .iter()
            .filter_map(|(key, count)| {
                Some(RefusalCount {
                    minute: Timestamp::from_unix_seconds(key.minute).ok()?,
                    reason: key.reason,
                    scheme: key.scheme,
                    network: key.network.clone(),
                    count: *count,
                })
            })
            .collect();
        if let Err(error) = rejections.count(&refusals).await {
            tracing::warn!(
                error = chain(&error),
                "how many were turned away could not be written down; it will be tried again"
            );
            let mut counts = self.lock();
            for (key, count) in finished {
                counts.add(key, count);
            }
        }
    }
}

impl Counts {
    fn count(&mut self, key: CounterKey) {
        if key.minute < self.latest_minute {
            // The clock was set back: continue from there.
            self.latest_minute = key.minute;
        } else if key.minute > self.latest_minute {
            let elapsed_minutes = key.minute.saturating_sub(self.latest_minute) / 60;
            let added = usize::try_from(elapsed_minutes).map_or(MAX_NETWORKS, |minutes| {
                minutes.saturating_mul(NETWORKS_PER_MINUTE)
            });
            self.network_budget = self.network_budget.saturating_add(added).min(MAX_NETWORKS);
            self.latest_minute = key.minute;
        }
        if self.by_key.contains_key(&key) {
            self.add(key, 1);
        } else if self.network_budget > 0 {
            self.network_budget -= 1;
            self.add(key, 1);
        } else {
            self.add(key.for_other_networks(), 1);
        }
    }

    /// Adds to a count, or to the row `*` when memory holds enough counts.
    fn add(&mut self, key: CounterKey, count: i64) {
        let has_own_row = self.by_key.len() < MAX_NETWORKS || self.by_key.contains_key(&key);
        let key = if has_own_row {
            key
        } else {
            key.for_other_networks()
        };
        *self.by_key.entry(key).or_default() += count;
    }
}

impl CounterKey {
    fn for_other_networks(self) -> Self {
        Self {
            network: OTHER_NETWORKS.to_owned(),
            scheme: "",
            ..self
        }
    }
}

fn start_of_minute(at: Timestamp) -> i64 {
    let seconds = at.unix_seconds();
    seconds - seconds.rem_euclid(60)
}

/// Returns the network that one sender probably owns: 256 addresses of IPv4, 64 bits of IPv6 (RFC 6177).
fn client_network(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits() & (u128::from(u64::MAX) << 64);
            format!("{}/64", std::net::Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests;
