//! The source of the current time. Clocks are passed in, so tests can control the time.

use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::timestamp::Timestamp;

/// A source of the current time.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The system clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the only place that reads the system clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::from_offset_date_time(OffsetDateTime::now_utc())
            .expect("the current year has four digits")
    }
}

/// A clock for tests. It moves only when a test moves it.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// Creates a clock that is set to this time.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.0.lock().expect("no code panics while it has the lock");
        *now = now.saturating_add(duration);
    }

    /// Moves the clock back, as a correction of the system clock does.
    pub fn set_back(&self, duration: Duration) {
        let mut now = self.0.lock().expect("no code panics while it has the lock");
        *now = now.saturating_sub(duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no code panics while it has the lock")
    }
}
