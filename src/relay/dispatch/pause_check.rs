//! The checks whether a paused endpoint is due for a probe. They are rare, because each is a query.

use std::time::Duration;

use tokio::time::Instant;

/// The time between checks whether a probe is due. An endpoint that has deliveries to send needs none.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The time of the last check whether a probe of a paused endpoint is due.
#[derive(Default)]
pub(super) struct PauseCheck(Option<Instant>);

impl PauseCheck {
    /// Returns whether a check is due. The next one is due after the interval.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self
            .0
            .is_none_or(|last| last.elapsed() >= PAUSE_CHECK_INTERVAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
