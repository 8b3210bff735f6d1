//! How an endpoint fares: when it is left in peace, and when somebody is told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::domain::delivery::Next;

/// After how many failures in a row an endpoint is left in peace: then it gets one call at a time, with a rest before each. What is for it
/// waits meanwhile, and is not given up unheard.
const FAILURES_BEFORE_REST: u32 = 5;

/// The first rest, and the longest; each is twice as long as the one before.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The failures since the last success, as far as this process has seen.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: AtomicU32,
    /// After how many of them it was left in peace for the last time.
    rested_after: AtomicU32,
    /// Rings when it begins to be left in peace.
    begins_to_rest: Notify,
}

/// What a try changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many have failed in a row, this one included.
    Failed(u32),
    /// It succeeded, after so many failures.
    Recovered(u32),
}

impl Health {
    /// How long the endpoint is left in peace before its next call, if it is. No longer, when it has been since the last one.
    pub(super) fn rest(&self) -> Option<Duration> {
        let failures = self.failures.load(Ordering::Relaxed);
        let more = failures.checked_sub(FAILURES_BEFORE_REST)?;
        if failures == self.rested_after.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let rest = 2_u32
            .checked_pow(more)
            .and_then(|times| REST.checked_mul(times));
        Some(rest.unwrap_or(LONGEST_REST).min(LONGEST_REST))
    }

    /// Takes note of a rest: before the next call there is none. What was leased for that may turn out to need no call.
    pub(super) fn has_rested(&self) {
        let failures = self.failures.load(Ordering::Relaxed);
        self.rested_after.store(failures, Ordering::Relaxed);
    }

    /// Waits until the endpoint is left in peace.
    pub(super) async fn begins_to_rest(&self) {
        let begins = self.begins_to_rest.notified();
        tokio::pin!(begins);
        // From here on it is heard, whether it rings before or after the look.
        begins.as_mut().enable();
        if self.rest().is_none() {
            begins.await;
        }
    }

    /// Takes note of a try.
    pub(super) fn note(&self, next: Next) -> Turn {
        if next == Next::Delivered {
            self.rested_after.store(0, Ordering::Relaxed);
            Turn::Recovered(self.failures.swap(0, Ordering::Relaxed))
        } else {
            let before = self.failures.fetch_add(1, Ordering::Relaxed);
            let failures = before.saturating_add(1);
            if failures == FAILURES_BEFORE_REST {
                self.begins_to_rest.notify_waiters();
            }
            Turn::Failed(failures)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rest_is_longer_until_a_try_succeeds() {
        let health = Health::default();
        let rests: Vec<Option<u64>> = (0..12)
            .map(|_| {
                let rest = health.rest().map(|rest| rest.as_secs());
                health.note(Next::GiveUp);
                rest
            })
            .collect();

        let none = [None; 5];
        let some = [1, 2, 4, 8, 16, 30, 30].map(Some);
        assert_eq!(rests, [&none[..], &some[..]].concat());
        assert_eq!(health.note(Next::Delivered), Turn::Recovered(12));
        assert_eq!(health.rest(), None);
        assert_eq!(health.note(Next::Pause), Turn::Failed(1));
    }

    #[test]
    fn one_rest_is_enough_until_the_next_call() {
        let health = Health::default();
        let rest = || health.rest().map(|rest| rest.as_secs());
        for _ in 0..5 {
            health.note(Next::GiveUp);
        }
        assert_eq!(rest(), Some(1));
        health.has_rested();
        assert_eq!(rest(), Some(0));
        health.note(Next::GiveUp);
        assert_eq!(rest(), Some(2));

        health.has_rested();
        health.note(Next::Delivered);
        for _ in 0..6 {
            health.note(Next::GiveUp);
        }
        assert_eq!(rest(), Some(2), "the rest of another time does not count");
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_it_begins_to_be_left_in_peace() {
        let health = Health::default();
        let fail = async {
            for _ in 0..5 {
                health.note(Next::GiveUp);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(health.begins_to_rest(), health.begins_to_rest(), fail);
        health.begins_to_rest().await;
    }
}
