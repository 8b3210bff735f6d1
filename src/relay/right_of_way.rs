//! Webhooks have the right of way: while any wait to be recorded, the relay leaves the database to them for most of the time.
//!
//! Cloudflare waits for an answer and may give up; what is to be told stands in a table, and loses nothing by waiting there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::InboxMetrics;

/// How many times as long as the relay had the database it is left to those who record, at the most: one part in twenty is the relay's.
const REST: u32 = 19;

/// From so many waiting webhooks on the rest is whole. Fewer that happen to wait are no rush, and the rest is shorter.
const RUSH: u32 = 4;

/// The longest time that it is left to them at once, however many endpoints there are.
const LONGEST_REST: Duration = Duration::from_millis(500);

pub(super) struct RightOfWay {
    inbox: InboxMetrics,
    /// Whoever is to stop soon rests no more.
    stop: CancellationToken,
    rests_until: Mutex<Instant>,
}

impl RightOfWay {
    pub(super) fn of(inbox: InboxMetrics, stop: CancellationToken) -> Self {
        Self {
            inbox,
            stop,
            rests_until: Mutex::new(Instant::now()),
        }
    }

    /// Does this with the database, when it is the relay's turn.
    pub(super) async fn give<T>(&self, work: impl Future<Output = T>) -> T {
        let rests_until = *self.rests_until();
        if rests_until > Instant::now() {
            let rest = tokio::time::sleep_until(rests_until);
            let _stopped = self.stop.run_until_cancelled(rest).await;
        }
        let began = Instant::now();
        let result = work.await;
        let waiting = u32::try_from(self.inbox.waiting.get()).unwrap_or_default();
        if waiting > 0 {
            let now = Instant::now();
            let rest = (now - began) * REST * waiting.min(RUSH) / RUSH;
            let mut rests_until = self.rests_until();
            *rests_until = ((*rests_until).max(now) + rest).min(now + LONGEST_REST);
        }
        result
    }

    fn rests_until(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// How long the next work waits after one that took so long.
    async fn wait_after(work: Duration, webhooks_waiting: i64) -> Duration {
        let inbox = Metrics::default().inbox;
        inbox.waiting.set(webhooks_waiting);
        let right_of_way = RightOfWay::of(inbox, CancellationToken::new());
        right_of_way.give(tokio::time::sleep(work)).await;
        let began = Instant::now();
        right_of_way.give(async {}).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn while_webhooks_wait_the_relay_has_one_part_in_twenty() {
        let work = Duration::from_millis(10);
        assert_eq!(wait_after(work, 64).await, 19 * work);
        assert_eq!(wait_after(work, 0).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_fewer_webhooks_wait_the_shorter_is_the_rest() {
        let work = Duration::from_millis(8);
        assert_eq!(wait_after(work, 1).await, 19 * work / 4);
        assert_eq!(wait_after(work, 4).await, 19 * work);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_database_does_not_stop_the_relay() {
        let work = Duration::from_secs(10);
        assert_eq!(wait_after(work, 64).await, LONGEST_REST);
    }
}
