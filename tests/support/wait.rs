//! Waiting for an effect, and giving up loudly when it does not come. How long that may take says nothing about the product:
//! the machine may be slow.

use std::time::{Duration, Instant};

/// After this long nobody waits any more.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until this holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = now();
    while !holds() {
        assert!(now() - started < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Waits until this holds.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = now();
    while !holds().await {
        assert!(now() - started < PATIENCE, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test that hangs has to end by itself"
)]
fn now() -> Instant {
    Instant::now()
}
