//! Counts refused requests by minute and client network. Counting changes only memory. The counts are written once a minute.
//!
//! The number of rows is limited. A flood causes up to 1,000 rows at first, and then 20 per minute. Retention deletes old rows.

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

/// The maximum number of rows that one process writes for a minute, as at the start of a flood. Further requests are counted
/// under the network [`OTHER_NETWORKS`].
const MAX_ROWS: usize = 1000;

/// The number of rows per minute during a long flood. In the default retention period of 90 days, these are 2.6 million rows, or
/// some hundreds of megabytes.
const FLOOD_ROWS_PER_MINUTE: usize = 20;

/// The number of rows per minute with the network [`OTHER_NETWORKS`]: one for each reason.
const ROWS_FOR_OTHER_NETWORKS: usize = 2;

/// The maximum number of rows for single networks in a minute. A network has one row for each of its reasons and schemes. Memory
/// contains at most this many counts, plus those of [`OTHER_NETWORKS`].
const MAX_NETWORK_ROWS: usize = MAX_ROWS - ROWS_FOR_OTHER_NETWORKS;

/// The number of rows for single networks that each new minute adds to [`Counts::row_budget`], up to [`MAX_NETWORK_ROWS`].
const NETWORK_ROWS_PER_MINUTE: usize = FLOOD_ROWS_PER_MINUTE - ROWS_FOR_OTHER_NETWORKS;

/// The network in the rows that count requests over the budget.
const OTHER_NETWORKS: &str = "*";

/// The interval between two checks for finished minutes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct RefusalCounter {
    counts: Mutex<Counts>,
    clock: Arc<dyn Clock>,
}

struct Counts {
    by_key: HashMap<CounterKey, i64>,
    /// The number of further rows for single networks.
    row_budget: usize,
    /// The minute of the latest count.
    latest_minute: i64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            row_budget: MAX_NETWORK_ROWS,
            latest_minute: i64::MIN,
        }
    }
}

/// The key of a count. Requests with the same key are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CounterKey {
    /// The start of the minute, in Unix seconds.
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

    /// Counts one refused request.
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
        self.lock().count_one(key);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes each minute after its end, and the last minute after the last request.
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

    /// Writes the counts of the minutes that start before `before`, in Unix seconds. If that fails, the counts stay in memory.
    /// Suppressed counts are lost, because a retry would add the other counts again.
    async fn write(&self, rejections: &dyn Rejections, before: i64) {
        let finished: Vec<(CounterKey, i64)> = {
            let mut counts = self.lock();
            // If the clock was set back, older counts have a minute far in the future.
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
        match rejections.add_refusals(&refusals).await {
            Ok(0) => {}
            Ok(suppressed) => tracing::error!(
                suppressed,
                "the database suppressed counts of refused requests; check the triggers of webhook_rejections"
            ),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot write the counts of refused requests; retrying"
                );
                let mut counts = self.lock();
                for (key, count) in finished {
                    counts.add(key, count);
                }
            }
        }
    }
}

impl Counts {
    fn count_one(&mut self, key: CounterKey) {
        if key.minute < self.latest_minute {
            // The clock was set back: count from the new time.
            self.latest_minute = key.minute;
        } else if key.minute > self.latest_minute {
            let elapsed_minutes = key.minute.saturating_sub(self.latest_minute) / 60;
            let added = usize::try_from(elapsed_minutes).map_or(MAX_NETWORK_ROWS, |minutes| {
                minutes.saturating_mul(NETWORK_ROWS_PER_MINUTE)
            });
            self.row_budget = self.row_budget.saturating_add(added).min(MAX_NETWORK_ROWS);
            self.latest_minute = key.minute;
        }
        if self.by_key.contains_key(&key) {
            self.add(key, 1);
        } else if self.row_budget > 0 {
            self.row_budget -= 1;
            self.add(key, 1);
        } else {
            self.add(key.for_other_networks(), 1);
        }
    }

    /// Adds to a count. If memory already contains the maximum number of counts, adds to the count of [`OTHER_NETWORKS`] instead.
    fn add(&mut self, key: CounterKey, count: i64) {
        let has_own_row = self.by_key.len() < MAX_NETWORK_ROWS || self.by_key.contains_key(&key);
        let key = if has_own_row {
            key
        } else {
            key.for_other_networks()
        };
        *self.by_key.entry(key).or_default() += count;
    }
}

impl CounterKey {
    /// Returns the key of the count of [`OTHER_NETWORKS`], for the same minute and reason.
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

/// Returns the network that probably belongs to one client: a /24 of IPv4, or a /64 of IPv6 (RFC 6177).
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
