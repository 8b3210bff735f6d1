//! Where the time comes from: a clock that is passed in, so that a test can move it.

use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::timestamp::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The instant at which this is called.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::from_offset_date_time(OffsetDateTime::now_utc())
            .expect("the machine's year has four digits")
    }
}

/// A clock that stands still until it is moved. For tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that stands at this instant.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let mut now = self
            .0
            .lock()
            .expect("nothing panics while the clock is locked");
        *now = now.saturating_add(duration);
    }

    /// Moves the clock back, as somebody does who mends it.
    pub fn set_back(&self, duration: Duration) {
        let mut now = self
            .0
            .lock()
            .expect("nothing panics while the clock is locked");
        *now = now.saturating_sub(duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self
            .0
            .lock()
            .expect("nothing panics while the clock is locked")
    }
}
