//! The throttle for the relay's database operations while webhooks wait to be recorded.
//!
//! Receiving has priority: Cloudflare waits for a response and may give up. Deliveries wait in a table, and none is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::InboxMetrics;

/// The longest backoff after an operation, in multiples of its duration. At 19 the relay gets one twentieth of the time.
const MAX_BACKOFF_FACTOR: u32 = 19;

/// The number of waiting webhooks at which the full backoff applies. With fewer, the backoff is proportionally shorter.
const FULL_BACKOFF_AT: u32 = 4;

/// The limit of the backoff that the operations of all endpoints add up to.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Runs the relay's database operations. While webhooks wait, a backoff follows each operation.
pub(in crate::relay) struct RelayThrottle {
    inbox: InboxMetrics,
    /// Ends every backoff.
    stop: CancellationToken,
    backoff_until: Mutex<Instant>,
}

impl RelayThrottle {
    /// Creates a throttle that depends on the queue of this inbox.
    pub(in crate::relay) fn new(inbox: InboxMetrics, stop: CancellationToken) -> Self {
        Self {
            inbox,
            stop,
            backoff_until: Mutex::new(Instant::now()),
        }
    }

    /// Runs a database operation after the backoff of earlier operations has passed.
    pub(super) async fn run<T>(&self, operation: impl Future<Output = T>) -> T {
        let backoff_until = *self.backoff_until();
        if backoff_until > Instant::now() {
            let backoff = tokio::time::sleep_until(backoff_until);
            let _cancelled = self.stop.run_until_cancelled(backoff).await;
        }
        let started = Instant::now();
        let result = operation.await;
        let webhooks_waiting = u32::try_from(self.inbox.queue_depth.get()).unwrap_or_default();
        if webhooks_waiting > 0 {
            let now = Instant::now();
            let backoff =
                (now - started) * MAX_BACKOFF_FACTOR * webhooks_waiting.min(FULL_BACKOFF_AT)
                    / FULL_BACKOFF_AT;
            let mut backoff_until = self.backoff_until();
            *backoff_until = ((*backoff_until).max(now) + backoff).min(now + MAX_BACKOFF);
        }
        result
    }

    fn backoff_until(&self) -> MutexGuard<'_, Instant> {
        self.backoff_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// Returns the wait of the next operation after one of this duration.
    async fn wait_after(work: Duration, webhooks_waiting: i64) -> Duration {
        let inbox = Metrics::default().inbox;
        inbox.queue_depth.set(webhooks_waiting);
        let throttle = RelayThrottle::new(inbox, CancellationToken::new());
        throttle.run(tokio::time::sleep(work)).await;
        let started = Instant::now();
        throttle.run(async {}).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn limits_relay_to_one_twentieth_of_time() {
        let work = Duration::from_millis(10);
        assert_eq!(wait_after(work, 64).await, 19 * work);
        assert_eq!(wait_after(work, 0).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_webhooks_shorten_the_backoff() {
        let work = Duration::from_millis(8);
        assert_eq!(wait_after(work, 1).await, 19 * work / 4);
        assert_eq!(wait_after(work, 4).await, 19 * work);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_the_backoff() {
        let work = Duration::from_secs(10);
        assert_eq!(wait_after(work, 64).await, MAX_BACKOFF);
    }
}
