//! One message for one endpoint: in which states it can be, and what follows from a try.

use std::time::Duration;

use super::named::named_enum;

named_enum! {
    /// The state of a delivery.
    pub enum DeliveryStatus {
        /// It waits for its first try.
        Pending = "pending",
        /// Somebody works on it, for a limited time.
        Leased = "leased",
        /// The endpoint has taken it. Final.
        Delivered = "delivered",
        /// A try failed, and another is to come.
        Retrying = "retrying",
        /// All tries failed, or one did that no other can mend. Final, until somebody replays it.
        Failed = "failed",
        /// The endpoint's own filter did not want it. Final.
        Filtered = "filtered",
        /// It waits, and its endpoint is paused. Never stored: the pause is the endpoint's.
        Paused = "paused",
    }
}

/// How often and when a delivery that failed is tried again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RetryPolicy {
    /// How many tries there are after the first.
    pub max_retries: u32,
    /// How long after the first try the second comes.
    pub delay: Duration,
    /// How many times as long each further wait is.
    pub backoff_factor: f64,
    /// The longest wait; also of what an endpoint asks for.
    pub max_delay: Duration,
    /// The answers after which it is tried again; none: all that are no success.
    pub on_status: Vec<u16>,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    /// With an answer.
    Response {
        status: u16,
        /// How long the endpoint asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// With the word that the message is stored, which is no HTTP answer.
    Acknowledged,
    /// Without one: no connection, no token, no answer in time, an answer that broke off.
    NoResponse,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Nothing: the endpoint has it.
    Delivered,
    /// Another try, after so long.
    Retry(Duration),
    /// Nothing: it is no use.
    Fail,
    /// The endpoint said that it is gone (410): it is told nothing until somebody says otherwise.
    Pause,
}

/// 410: the resource is gone, and likely for ever (RFC 9110, section 15.5.11).
const GONE: u16 = 410;

/// By how much of itself a wait is lengthened at the most, so that what failed at the same time is not tried at the same time.
const MAX_JITTER: f64 = 0.25;

impl RetryPolicy {
    /// What follows from the `attempts`th try, counted from 1. `chance` is from 0 to 1.
    pub(crate) fn next(&self, attempt: u32, result: AttemptResult, fraction: f64) -> RetryDecision {
        let requested = match result {
            AttemptResult::Acknowledged => return RetryDecision::Delivered,
            AttemptResult::Response { status, .. } if (200..300).contains(&status) => {
                return RetryDecision::Delivered;
            }
            AttemptResult::Response { status: GONE, .. } => return RetryDecision::Pause,
            AttemptResult::Response { status, .. }
                if !self.on_status.is_empty() && !self.on_status.contains(&status) =>
            {
                return RetryDecision::Fail;
            }
            AttemptResult::Response { retry_after, .. } => retry_after.unwrap_or_default(),
            AttemptResult::NoResponse => Duration::ZERO,
        };
        if attempt > self.max_retries {
            return RetryDecision::Fail;
        }
        let wait = self.backoff(attempt).max(requested).min(self.max_delay);
        RetryDecision::Retry(wait.mul_f64(1.0 + MAX_JITTER * fraction.clamp(0.0, 1.0)))
    }

    fn backoff(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.delay.as_secs_f64() * self.backoff_factor.powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_retries: 3,
            delay: Duration::from_mins(1),
            backoff_factor: 2.0,
            max_delay: Duration::from_secs(200),
            on_status: Vec::new(),
        }
    }

    fn response(status: u16) -> AttemptResult {
        AttemptResult::Response {
            status,
            retry_after: None,
        }
    }

    #[test]
    fn backoff_grows_to_limit_then_fails() {
        let waits: Vec<RetryDecision> = (1..=4)
            .map(|attempt| policy().next(attempt, response(500), 0.0))
            .collect();

        let retry = |seconds| RetryDecision::Retry(Duration::from_secs(seconds));
        assert_eq!(
            waits,
            [retry(60), retry(120), retry(200), RetryDecision::Fail]
        );
    }

    #[test]
    fn jitter_only_lengthens_delay() {
        let waits =
            [0.0, 0.5, 1.0].map(|chance| policy().next(1, AttemptResult::NoResponse, chance));

        let retry = |millis| RetryDecision::Retry(Duration::from_millis(millis));
        assert_eq!(waits, [retry(60_000), retry(67_500), retry(75_000)]);
    }

    #[test]
    fn retry_after_is_limited_by_max_delay() {
        let asked = |seconds| {
            let tried = AttemptResult::Response {
                status: 429,
                retry_after: Some(Duration::from_secs(seconds)),
            };
            policy().next(1, tried, 0.0)
        };

        let retry = |seconds| RetryDecision::Retry(Duration::from_secs(seconds));
        assert_eq!(
            [asked(5), asked(100), asked(86_400)],
            [retry(60), retry(100), retry(200)]
        );
    }

    #[test]
    fn status_2xx_delivers_and_410_pauses() {
        for status in [200, 204, 299] {
            assert_eq!(
                policy().next(9, response(status), 0.0),
                RetryDecision::Delivered
            );
        }
        assert_eq!(policy().next(1, response(410), 0.0), RetryDecision::Pause);
        for status in [199, 301, 404, 500] {
            assert!(matches!(
                policy().next(1, response(status), 0.0),
                RetryDecision::Retry(_)
            ));
        }
    }

    #[test]
    fn retries_only_listed_statuses_and_timeouts() {
        let policy = RetryPolicy {
            on_status: vec![429, 503],
            ..policy()
        };

        assert!(matches!(
            policy.next(1, response(503), 0.0),
            RetryDecision::Retry(_)
        ));
        assert_eq!(policy.next(1, response(404), 0.0), RetryDecision::Fail);
        assert!(matches!(
            policy.next(1, AttemptResult::NoResponse, 0.0),
            RetryDecision::Retry(_)
        ));
    }

    #[test]
    fn accepts_extreme_numbers() {
        let policy = RetryPolicy {
            max_retries: u32::MAX,
            backoff_factor: 10.0,
            ..policy()
        };

        assert_eq!(
            policy.next(u32::MAX, AttemptResult::NoResponse, f64::NAN.max(0.0)),
            RetryDecision::Retry(Duration::from_secs(200))
        );
    }
}
