//! Random numbers and unique ids. `clippy.toml` bans other sources of them.

use uuid::Uuid;

/// Returns a `UUIDv7` (RFC 9562, section 5.7). Such ids sort by the millisecond of their creation.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the only source of ids; UUIDv7 reads the system clock"
)]
#[must_use]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// Returns a random `UUIDv4` (RFC 9562, section 5.4). It does not reveal the time of its creation.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the only source of ids"
)]
#[must_use]
pub fn uuid_v4() -> Uuid {
    Uuid::new_v4()
}

/// Returns a random number from 0 (inclusive) to 1 (exclusive).
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the only source of random numbers"
)]
#[must_use]
pub fn fraction() -> f64 {
    fastrand::f64()
}

/// Shuffles the items.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is the only source of random numbers"
)]
pub fn shuffle<T>(items: &mut [T]) {
    fastrand::shuffle(items);
}
