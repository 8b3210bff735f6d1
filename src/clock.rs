//! The source of the current time. Clocks are passed in, so tests can control the time.

use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::timestamp::Timestamp;

/// A source of the current time.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Timestamp;

    /// Returns the current time and the kind of the clock.
    fn read(&self) -> ClockReading {
        ClockReading::System(self.now())
    }
}

/// A time, and the kind of clock that it was read from.
///
/// Leases and due times go by the clock of the database, because the clocks of replicas may differ. SQLite has no clock of its
/// own, and tests move theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockReading {
    /// The clock of this process. The clock of a database replaces it.
    System(Timestamp),
    /// The clock of a test. It also replaces the clock of a database.
    Manual(Timestamp),
}

impl ClockReading {
    /// Returns the time, for a database without a clock.
    #[must_use]
    pub fn time(self) -> Timestamp {
        match self {
            Self::System(time) | Self::Manual(time) => time,
        }
    }

    /// Returns the time that replaces the database's clock, if there is one.
    #[must_use]
    pub fn manual_time(self) -> Option<Timestamp> {
        match self {
            Self::System(_) => None,
            Self::Manual(time) => Some(time),
        }
    }
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

    fn read(&self) -> ClockReading {
        ClockReading::Manual(self.now())
    }
}
