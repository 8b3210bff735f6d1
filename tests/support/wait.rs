//! Waiting for an effect, and giving up loudly when it does not come. How long that may take says nothing about the product:
//! the machine may be slow.

use std::time::{Duration, Instant, SystemTime};

/// After this long nobody waits any more.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The pause between two looks. The other tests need the processor too.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until this holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = now();
    while !holds() {
        assert!(now() - started < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until this holds.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = now();
    while !holds().await {
        assert!(now() - started < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the next millisecond of the system's clock has begun.
pub(crate) async fn until_the_next_millisecond() {
    let now = milliseconds();
    until_async("the clock goes on", async || milliseconds() > now).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "the databases of the tests make ids from the system's clock"
)]
fn milliseconds() -> u128 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.expect("it is later than 1970").as_millis()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test that hangs has to end by itself"
)]
fn now() -> Instant {
    Instant::now()
}
