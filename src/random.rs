//! Randomness: the only place that makes random numbers and unique ids. `clippy.toml` bans the shortcuts elsewhere.

use uuid::Uuid;

/// Returns a `UUIDv7` (RFC 9562, section 5.7): ids sort by the millisecond in which they were made.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that makes ids; UUIDv7 reads the machine's clock"
)]
#[must_use]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// Returns a random `UUIDv4`, which says nothing about when it was made.
#[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
#[must_use]
pub fn uuid_v4() -> Uuid {
    Uuid::new_v4()
}

/// Returns a number from 0 up to, but not including, 1.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that makes random numbers"
)]
#[must_use]
pub fn fraction() -> f64 {
    fastrand::f64()
}

/// Puts the items into a random order.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that makes random numbers"
)]
pub fn shuffle<T>(items: &mut [T]) {
    fastrand::shuffle(items);
}
