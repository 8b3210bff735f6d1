//! Draining: reads and discards the rest of a body that is too large.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

/// The time limit for draining a body that is too large. Draining reads the rest of the body and discards it. Then the service
/// responds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads and discards up to `max_bytes` more bytes.
pub(crate) async fn drain(body: Body, max_bytes: usize) {
    let mut body = Limited::new(body, max_bytes);
    let draining = async { while let Some(Ok(_)) = body.frame().await {} };
    // The response does not depend on whether the client has sent the whole body.
    let _timed_out = timeout(DRAIN_TIMEOUT, draining).await;
}
