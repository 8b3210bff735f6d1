//! Limits the access-log lines of refused requests. Anyone can cause such requests, so without a limit anyone could flood the log.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The statuses whose lines are limited. A client without the secret can cause each of them.
const LIMITED_STATUSES: [u16; 4] = [401, 403, 404, 429];

/// The time for which the limit holds. Then the omitted lines are summed up.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits the lines per second, for each status on its own.
#[derive(Debug)]
pub struct LineLimiter {
    /// The limit for each status. 0 means no limit.
    lines_per_second: u32,
    /// The number of answers with each of [`LIMITED_STATUSES`] since the start of the interval.
    answers: [AtomicU32; LIMITED_STATUSES.len()],
}

impl LineLimiter {
    /// Creates a limiter. 0 means no limit.
    #[must_use]
    pub fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            answers: Default::default(),
        }
    }

    /// Returns whether the line of an answer with this status is written.
    pub(in crate::web) fn permits(&self, status: u16) -> bool {
        let limited = LIMITED_STATUSES.iter().zip(&self.answers);
        let mut answers = limited.filter(|(limited, _)| **limited == status);
        answers.next().is_none_or(|(_, answers)| {
            self.lines_per_second == 0
                || answers.fetch_add(1, Ordering::Relaxed) < self.lines_per_second
        })
    }

    /// Starts a new interval once per second, until `stop`. The last interval ends with `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(INTERVAL))
            .await
            .is_some()
        {
            self.start_interval();
        }
        self.start_interval();
    }

    /// Logs how many lines were omitted since the last call, one line for each status.
    fn start_interval(&self) {
        for (status, answers) in LIMITED_STATUSES.iter().zip(&self.answers) {
            let answers = answers.swap(0, Ordering::Relaxed);
            let omitted = answers.saturating_sub(self.lines_per_second);
            if omitted > 0 {
                tracing::info!(
                    status,
                    omitted,
                    "access log lines with this status were omitted (log.refused_lines_per_second)"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::captured_log::logged;

    #[tokio::test]
    async fn sums_up_omitted_lines_per_status() {
        let limiter = LineLimiter::new(2);

        let written: Vec<bool> = [401, 401, 401, 404, 200, 401, 500]
            .map(|status| limiter.permits(status))
            .into();
        let ((), lines) = logged(async {
            limiter.start_interval();
            limiter.start_interval();
        })
        .await;

        assert_eq!(written, [true, true, false, true, true, false, true]);
        let summaries: Vec<_> = lines
            .iter()
            .map(|line| (&line["status"], &line["omitted"]))
            .collect();
        assert_eq!(summaries, [(&401.into(), &2.into())]);
        assert!(limiter.permits(401), "the next interval has its own lines");
    }

    #[tokio::test]
    async fn writes_every_line_without_limit() {
        let limiter = LineLimiter::new(0);

        assert!((0..1000).all(|_| limiter.permits(401)));
        let ((), lines) = logged(async { limiter.start_interval() }).await;
        assert!(lines.is_empty(), "{lines:?}");
    }
}
