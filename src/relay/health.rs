//! How an endpoint fares: when it is left in peace, and when somebody is told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
    /// How long the endpoint is left in peace before its next call, if it is.
    pub(super) fn rest(&self) -> Option<Duration> {
        let failures = self.failures.load(Ordering::Relaxed);
        let more = failures.checked_sub(FAILURES_BEFORE_REST)?;
        let rest = 2_u32
            .checked_pow(more)
            .and_then(|times| REST.checked_mul(times));
        Some(rest.unwrap_or(LONGEST_REST).min(LONGEST_REST))
    }

    /// Takes note of a try.
    pub(super) fn note(&self, next: Next) -> Turn {
        if next == Next::Delivered {
            Turn::Recovered(self.failures.swap(0, Ordering::Relaxed))
        } else {
            let before = self.failures.fetch_add(1, Ordering::Relaxed);
            Turn::Failed(before.saturating_add(1))
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
}
