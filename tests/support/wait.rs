//! Waiting for an effect. A wait fails after a long timeout. The timeout is no promise about the
//! speed of the service.

use std::time::{Duration, Instant, SystemTime};

/// The timeout of each wait. It is long because the machine may be slow.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// The time between two checks. The other tests need the processor too.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the condition holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = now();
    while !condition() {
        assert!(
            now() - started < WAIT_TIMEOUT,
            "timed out waiting until {what}"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until the condition holds.
pub(crate) async fn until_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = now();
    while !condition().await {
        assert!(
            now() - started < WAIT_TIMEOUT,
            "timed out waiting until {what}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits for the next millisecond of the system clock.
pub(crate) async fn until_next_millisecond() {
    let now = milliseconds();
    until_async("the clock advances", async || milliseconds() > now).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "the databases of the tests make ids from the system's clock"
)]
fn milliseconds() -> u128 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.expect("it is later than 1970").as_millis()
}

#[expect(clippy::disallowed_methods, reason = "a test that hangs must end")]
fn now() -> Instant {
    Instant::now()
}
