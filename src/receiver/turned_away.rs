//! Those whom the gate turned away, counted by the minute and by where they came from. Nothing is written on their requests' way, and
//! however many they are and for however long, the rows are few: a thousand at once, then twenty a minute, and old ones are deleted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::timestamp::Timestamp;
use crate::signing::Scheme;
use crate::store::{Counted, Rejections, Turned};
use crate::telemetry::chain;

/// How many rows one service makes of a minute at most. Whoever comes from yet another network is counted as from anywhere.
const MAX_ROWS: usize = 1000;

/// How many rows a minute has when an attack does not end. In the 90 days for which they are kept by default these are 2.6 million,
/// some hundreds of megabytes.
const ROWS_PER_MINUTE: usize = 20;

/// How many of a minute's rows are of nobody in particular: one for each reason.
const ROWS_FROM_ANYWHERE: usize = 2;

/// How many networks a minute tells apart at most; so many counts are held in memory, beside those from anywhere.
const MAX_NETWORKS: usize = MAX_ROWS - ROWS_FROM_ANYWHERE;

/// How many networks a minute adds to those that may be told apart, up to [`MAX_NETWORKS`].
const NETWORKS_PER_MINUTE: usize = ROWS_PER_MINUTE - ROWS_FROM_ANYWHERE;

/// What stands for the networks beyond those.
const ANYWHERE: &str = "*";

/// How often it is looked whether the minute is over.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts those whom the gate turned away.
pub(crate) struct TurnedAway {
    counts: Mutex<Counts>,
    clock: Arc<dyn Clock>,
}

struct Counts {
    of: HashMap<Who, i64>,
    /// How many rows may still be made of single networks.
    rows_left: usize,
    /// The minute in which something was counted last.
    minute: i64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            rows_left: MAX_NETWORKS,
            minute: i64::MIN,
        }
    }
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Who {
    /// The minute's first second, in Unix seconds.
    minute: i64,
    turned: Turned,
    scheme: &'static str,
    network: String,
}

impl TurnedAway {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            counts: Mutex::default(),
            clock,
        }
    }

    /// Counts one more.
    pub(super) fn count(
        &self,
        turned: Turned,
        at: Timestamp,
        scheme: Option<Scheme>,
        client: Option<IpAddr>,
    ) {
        let who = Who {
            minute: minute(at),
            turned,
            scheme: scheme.map_or("", Scheme::name),
            network: client.map(network).unwrap_or_default(),
        };
        self.lock().count(who);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down each minute when it is over, and the last one when it is asked to stop.
    pub(crate) async fn run(
        self: Arc<Self>,
        rejections: Arc<dyn Rejections>,
        stop: CancellationToken,
    ) {
        while stop
            .run_until_cancelled(tokio::time::sleep(PAUSE))
            .await
            .is_some()
        {
            self.write(&*rejections, minute(self.clock.now())).await;
        }
        self.write(&*rejections, i64::MAX).await;
    }

    /// Writes down the minutes before this one.
    async fn write(&self, rejections: &dyn Rejections, before: i64) {
        let over: Vec<(Who, i64)> = {
            let mut counts = self.lock();
            // A minute that is far ahead was counted before the clock was set back.
            let ahead = before.saturating_add(60);
            let over = counts
                .of
                .extract_if(|who, _| who.minute < before || who.minute > ahead);
            over.collect()
        };
        if over.is_empty() {
            return;
        }
        let counted: Vec<Counted> = over
            .iter()
            .filter_map(|(who, count)| {
                Some(Counted {
                    minute: Timestamp::from_unix_seconds(who.minute).ok()?,
                    turned: who.turned,
                    scheme: who.scheme,
                    network: who.network.clone(),
                    count: *count,
                })
            })
            .collect();
        if let Err(error) = rejections.count(&counted).await {
            tracing::warn!(
                error = chain(&error),
                "how many were turned away could not be written down; it will be tried again"
            );
            let mut counts = self.lock();
            for (who, count) in over {
                counts.add(who, count);
            }
        }
    }
}

impl Counts {
    /// Counts one more.
    fn count(&mut self, who: Who) {
        if who.minute < self.minute {
            // The clock was set back: it goes on from there.
            self.minute = who.minute;
        } else if who.minute > self.minute {
            let minutes = who.minute.saturating_sub(self.minute) / 60;
            let more = usize::try_from(minutes).map_or(MAX_NETWORKS, |minutes| {
                minutes.saturating_mul(NETWORKS_PER_MINUTE)
            });
            self.rows_left = self.rows_left.saturating_add(more).min(MAX_NETWORKS);
            self.minute = who.minute;
        }
        if self.of.contains_key(&who) {
            self.add(who, 1);
        } else if self.rows_left > 0 {
            self.rows_left -= 1;
            self.add(who, 1);
        } else {
            self.add(who.anonymous(), 1);
        }
    }

    /// Adds to a count, as long as there is room for it in memory.
    fn add(&mut self, who: Who, count: i64) {
        let has_room = self.of.len() < MAX_NETWORKS || self.of.contains_key(&who);
        let who = if has_room { who } else { who.anonymous() };
        *self.of.entry(who).or_default() += count;
    }
}

impl Who {
    fn anonymous(self) -> Self {
        Self {
            network: ANYWHERE.to_owned(),
            scheme: "",
            ..self
        }
    }
}

fn minute(at: Timestamp) -> i64 {
    let seconds = at.unix_seconds();
    seconds - seconds.rem_euclid(60)
}

/// The network that one sender is likely to have for itself: 256 addresses of IPv4, 64 bits of IPv6 (RFC 6177).
fn network(client: IpAddr) -> String {
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
