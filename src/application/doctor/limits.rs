//! The time limits of a run.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::telemetry::chain;

/// The longest time of one check. Longer than the default of `database.timeout_secs`, so that its error is seen.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// The longest time of all checks together.
pub(super) const RUN_LIMIT: Duration = Duration::from_mins(1);

/// The time at which a run ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    end: Instant,
}

impl Limits {
    pub(super) fn start() -> Self {
        Self {
            end: Instant::now() + RUN_LIMIT,
        }
    }

    /// Returns the time that a check has now.
    pub(super) fn remaining(self) -> Duration {
        let remaining = self.end.saturating_duration_since(Instant::now());
        remaining.min(CHECK_LIMIT)
    }

    /// Runs a part of a check. The error is a text for people.
    pub(super) async fn run<T, E: Error + 'static>(
        self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        let limit = self.remaining();
        match timeout_at(Instant::now() + limit, part).await {
            Ok(result) => result.map_err(|error| chain(&error)),
            Err(_) => Err(format!("no result within {} seconds", limit.as_secs())),
        }
    }
}
