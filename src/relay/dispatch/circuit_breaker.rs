//! The circuit breaker of an endpoint.
//!
//! Five consecutive failures open the breaker. While it is open, the worker sends one delivery at a
//! time as a probe, each after a cooldown of 1 to 30 s. The first success closes the breaker. The
//! other deliveries wait, so an outage of the endpoint does not use up their retries.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The number of consecutive failures that opens the breaker.
const OPEN_AFTER_FAILURES: u32 = 5;

/// The first cooldown. Each further cooldown is twice as long.
const FIRST_COOLDOWN: Duration = Duration::from_secs(1);

const MAX_COOLDOWN: Duration = Duration::from_secs(30);

/// A circuit breaker that counts the consecutive failures of one endpoint in this process.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: AtomicU32,
    /// The number of failures when the last cooldown ended.
    failures_at_cooldown_end: AtomicU32,
    /// Wakes waiters when the breaker opens.
    opened: Notify,
}

/// The change that one attempt makes to the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerChange {
    /// The attempt failed. The number of consecutive failures includes it.
    Failed(u32),
    /// The attempt succeeded. The number counts the consecutive failures before it, and may be 0.
    Succeeded(u32),
}

impl CircuitBreaker {
    /// Returns the cooldown before the next call. `None` if the breaker is closed. Zero if the
    /// cooldown after the last failure has passed.
    pub(super) fn cooldown(&self) -> Option<Duration> {
        let failures = self.failures.load(Ordering::Relaxed);
        let doublings = failures.checked_sub(OPEN_AFTER_FAILURES)?;
        if failures == self.failures_at_cooldown_end.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let cooldown = 2_u32
            .checked_pow(doublings)
            .and_then(|factor| FIRST_COOLDOWN.checked_mul(factor));
        Some(cooldown.unwrap_or(MAX_COOLDOWN).min(MAX_COOLDOWN))
    }

    /// Records that the cooldown has passed. If the next claim finds no delivery, the claim after it
    /// needs no further cooldown.
    pub(super) fn mark_cooled_down(&self) {
        let failures = self.failures.load(Ordering::Relaxed);
        self.failures_at_cooldown_end
            .store(failures, Ordering::Relaxed);
    }

    /// Waits until the breaker is open.
    pub(super) async fn opened(&self) {
        let opened = self.opened.notified();
        tokio::pin!(opened);
        // Registers before the check, so an opening between the check and the wait is not missed.
        opened.as_mut().enable();
        if self.cooldown().is_none() {
            opened.await;
        }
    }

    /// Records a successful attempt. Closes the breaker.
    pub(super) fn record_success(&self) -> BreakerChange {
        self.failures_at_cooldown_end.store(0, Ordering::Relaxed);
        BreakerChange::Succeeded(self.failures.swap(0, Ordering::Relaxed))
    }

    /// Records a failed attempt. Opens the breaker after [`OPEN_AFTER_FAILURES`] failures.
    pub(super) fn record_failure(&self) -> BreakerChange {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let failures = before.saturating_add(1);
        if failures == OPEN_AFTER_FAILURES {
            self.opened.notify_waiters();
        }
        BreakerChange::Failed(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cooldown_doubles_until_success() {
        let breaker = CircuitBreaker::default();
        let cooldowns: Vec<Option<u64>> = (0..12)
            .map(|_| {
                let cooldown = breaker.cooldown().map(|cooldown| cooldown.as_secs());
                breaker.record_failure();
                cooldown
            })
            .collect();

        let none = [None; 5];
        let some = [1, 2, 4, 8, 16, 30, 30].map(Some);
        assert_eq!(cooldowns, [&none[..], &some[..]].concat());
        assert_eq!(breaker.record_success(), BreakerChange::Succeeded(12));
        assert_eq!(breaker.cooldown(), None);
        assert_eq!(breaker.record_failure(), BreakerChange::Failed(1));
    }

    #[test]
    fn cools_down_once_per_call() {
        let breaker = CircuitBreaker::default();
        let cooldown = || breaker.cooldown().map(|cooldown| cooldown.as_secs());
        for _ in 0..5 {
            breaker.record_failure();
        }
        assert_eq!(cooldown(), Some(1));
        breaker.mark_cooled_down();
        assert_eq!(cooldown(), Some(0));
        breaker.record_failure();
        assert_eq!(cooldown(), Some(2));

        breaker.mark_cooled_down();
        breaker.record_success();
        for _ in 0..6 {
            breaker.record_failure();
        }
        assert_eq!(cooldown(), Some(2), "an earlier cooldown does not count");
    }

    #[tokio::test]
    async fn opening_wakes_waiters() {
        let breaker = CircuitBreaker::default();
        let fail = async {
            for _ in 0..5 {
                breaker.record_failure();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(breaker.opened(), breaker.opened(), fail);
        breaker.opened().await;
    }
}
