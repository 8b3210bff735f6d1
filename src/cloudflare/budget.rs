//! The limit on calls. Cloudflare allows 1,200 calls in 5 minutes for each user, and then refuses every call for 5 minutes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time for which Cloudflare counts calls.
const PERIOD: Duration = Duration::from_mins(5);

/// A limit on calls: some at once, and then one in each interval (generic cell rate algorithm).
///
/// The theoretical time of the next call is the only state. A call is allowed while that time is at most `tolerance` ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    /// The time between two calls.
    interval: Duration,
    /// How far the theoretical time may be ahead.
    tolerance: Duration,
}

impl Quota {
    /// Returns a limit that never exceeds `calls` in any 5 minutes. A fifth of them can be made at once.
    pub(super) fn per_5_minutes(calls: usize) -> Self {
        let calls = u32::try_from(calls).unwrap_or(u32::MAX).max(2);
        let at_once = (calls / 5).max(1);
        let interval = PERIOD / (calls - at_once);
        Self {
            interval,
            tolerance: interval * at_once.saturating_sub(1),
        }
    }
}

/// The error if no call may be made before this time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted(pub(super) Duration);

/// The calls that this process may make.
pub(super) struct CallBudget {
    quota: Quota,
    next: Mutex<Instant>,
}

impl CallBudget {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Takes one call from the budget, and returns the time to wait before it. If that time is longer than `max_wait`, takes
    /// nothing and fails with the time.
    pub(super) fn take(&self, max_wait: Duration) -> Result<Duration, Exhausted> {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let theoretical = (*next).max(now);
        let wait = (theoretical - now).saturating_sub(self.quota.tolerance);
        if wait > max_wait {
            return Err(Exhausted(wait));
        }
        *next = theoretical + self.quota.interval;
        Ok(wait)
    }

    /// Allows no call for this time, because Cloudflare answered that there were too many.
    pub(super) fn pause(&self, time: Duration) {
        let resume = Instant::now() + time + self.quota.tolerance;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(resume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn never_exceeds_limit_in_any_5_minutes() {
        for limit in [10, 97, 1_100] {
            let budget = CallBudget::new(Quota::per_5_minutes(limit));
            let mut calls: Vec<Instant> = Vec::new();
            for _ in 0..3 * limit {
                let wait = budget.take(Duration::MAX).expect("any wait is fine");
                tokio::time::advance(wait).await;
                calls.push(Instant::now());
            }
            let most = calls.iter().map(|from| {
                let until = *from + PERIOD;
                calls
                    .iter()
                    .filter(|at| (*from..until).contains(at))
                    .count()
            });
            let most = most.max().expect("there are calls");
            assert!(most <= limit, "{most} of {limit}");
            assert!(most * 10 >= limit * 8, "{most} of {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pause_ends_after_its_time() {
        let budget = CallBudget::new(Quota::per_5_minutes(100));
        budget.pause(Duration::from_secs(30));

        let refused = budget.take(Duration::from_secs(1));
        assert_eq!(refused, Err(Exhausted(Duration::from_secs(30))));
        tokio::time::advance(Duration::from_secs(30)).await;

        assert!(matches!(budget.take(Duration::ZERO), Ok(Duration::ZERO)));
    }
}
