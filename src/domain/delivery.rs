//! A delivery: its status, and the decision after an attempt.

use std::time::Duration;

use super::named::named_enum;

named_enum! {
    /// The status of a delivery.
    pub enum DeliveryStatus {
        /// Waits for its first attempt.
        Pending = "pending",
        /// Leased to a worker for a limited time.
        Leased = "leased",
        /// Accepted by the endpoint. Final.
        Delivered = "delivered",
        /// An attempt failed. Waits for the next one.
        Retrying = "retrying",
        /// No retry is left, or an attempt failed with a status that is not retried. Final, unless it is replayed.
        Failed = "failed",
        /// Filtered out by the endpoint's `when` or `transform`. Final.
        Filtered = "filtered",
        /// Waits because its endpoint is paused. Never stored: the pause is stored with the endpoint.
        Paused = "paused",
    }
}

/// The rule for retries after a failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RetryPolicy {
    /// The number of attempts after the first.
    pub max_retries: u32,
    /// The wait between the first and the second attempt.
    pub delay: Duration,
    /// The factor by which each further wait grows.
    pub backoff_factor: f64,
    /// The longest wait before jitter. It also limits a wait that the endpoint requests.
    pub max_delay: Duration,
    /// The response statuses that are retried. Empty means all statuses except 200 to 299 and 410.
    pub on_status: Vec<u16>,
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    /// An HTTP response.
    Response {
        status: u16,
        /// The wait that the endpoint requests.
        retry_after: Option<Duration>,
    },
    /// A confirmation, without an HTTP response, that the message is stored.
    Acknowledged,
    /// No complete response: no connection, no token, a timeout or a broken connection.
    NoResponse,
}

/// The decision after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// The endpoint accepted the message.
    Delivered,
    /// Another attempt follows after this wait.
    Retry(Duration),
    /// No further attempt follows.
    Fail,
    /// The endpoint answered 410 Gone. It is paused until a probe succeeds or an operator resumes it.
    Pause,
}

/// The status 410: the resource is gone, probably permanently (RFC 9110, section 15.5.11).
pub(crate) const GONE: u16 = 410;

/// The largest fraction by which a wait is lengthened. Jitter spreads retries of deliveries that failed at the same time.
const MAX_JITTER: f64 = 0.25;

impl RetryPolicy {
    /// Returns the decision after an attempt. The first attempt is 1. `fraction` is a random number from 0 to 1.
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

    /// Returns whether a delivery gets another attempt after its lease expired. The attempts include the lost one.
    ///
    /// A lost lease does not show that the message failed: the process may have ended for another reason, before it sent the
    /// message. So one more attempt follows even if the policy has no retries.
    pub(crate) fn retries_after_lost_lease(&self, attempts: u32) -> bool {
        attempts <= self.max_retries.max(1)
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
    fn lost_leases_use_up_retries() {
        let retries = |max_retries, attempts| {
            let policy = RetryPolicy {
                max_retries,
                ..policy()
            };
            policy.retries_after_lost_lease(attempts)
        };

        assert_eq!(
            [retries(3, 1), retries(3, 3), retries(3, 4)],
            [true, true, false]
        );
        assert_eq!([retries(0, 1), retries(0, 2)], [true, false]);
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
