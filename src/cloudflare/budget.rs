//! The limit on calls. Cloudflare allows 1,200 calls in 5 minutes for each user, and then refuses every call for 5 minutes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

/// The time for which Cloudflare counts calls.
const PERIOD: Duration = Duration::from_mins(5);

/// A limit on calls: some at once, and then one in each interval (generic cell rate algorithm).
///
/// The theoretical time of the next call is the only state. A call is allowed while that time is at most `tolerance` ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    /// The time between two calls.
    pub(crate) interval: Duration,
    /// How far the theoretical time may be ahead.
    pub(crate) tolerance: Duration,
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

    /// Returns the limit for work in the background. It leaves half of the calls that can be made at once to others.
    pub(super) fn with_reserve(self) -> Self {
        Self {
            tolerance: self.tolerance / 2,
            ..self
        }
    }
}

/// The reason why no call may be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoCall {
    /// The limit allows none before this time has passed.
    Exhausted(Duration),
    /// The limit cannot be read, for this reason.
    Unknown(String),
}

/// The calls that may be made, as counted somewhere.
#[async_trait]
pub(crate) trait CallBudget: Send + Sync {
    /// Takes one call from the budget, and returns the time to wait before it. If that time is longer than `max_wait`, takes
    /// nothing and fails with the time.
    async fn take(&self, quota: Quota, max_wait: Duration) -> Result<Duration, NoCall>;

    /// Allows no call for this time, because Cloudflare answered that there were too many.
    async fn pause(&self, quota: Quota, time: Duration);
}

/// The calls of this process. For commands that use no database.
pub(super) struct ProcessBudget {
    next: Mutex<Instant>,
}

impl ProcessBudget {
    pub(super) fn new() -> Self {
        Self {
            next: Mutex::new(Instant::now()),
        }
    }
}

#[async_trait]
impl CallBudget for ProcessBudget {
    async fn take(&self, quota: Quota, max_wait: Duration) -> Result<Duration, NoCall> {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let theoretical = (*next).max(now);
        let wait = (theoretical - now).saturating_sub(quota.tolerance);
        if wait > max_wait {
            return Err(NoCall::Exhausted(wait));
        }
        *next = theoretical + quota.interval;
        Ok(wait)
    }

    async fn pause(&self, quota: Quota, time: Duration) {
        let resume = Instant::now() + time + quota.tolerance;
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
            let quota = Quota::per_5_minutes(limit);
            let budget = ProcessBudget::new();
            let mut calls: Vec<Instant> = Vec::new();
            for _ in 0..3 * limit {
                let wait = budget.take(quota, Duration::MAX).await;
                let wait = wait.expect("any wait is fine");
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
        let quota = Quota::per_5_minutes(100);
        let budget = ProcessBudget::new();
        budget.pause(quota, Duration::from_secs(30)).await;

        let refused = budget.take(quota, Duration::from_secs(1)).await;
        assert_eq!(refused, Err(NoCall::Exhausted(Duration::from_secs(30))));
        tokio::time::advance(Duration::from_secs(30)).await;

        let taken = budget.take(quota, Duration::ZERO).await;
        assert_eq!(taken, Ok(Duration::ZERO));
    }
}
