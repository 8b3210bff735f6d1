//! Reads the body of a request into memory, within a size limit and one deadline. This module does not interpret the bytes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::domain::outcome::RejectionReason;
use crate::web::{Problem, ProblemType};

/// The maximum size of a small body, which needs no permit. Webhooks from Cloudflare are far smaller.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// The maximum number of large bodies in memory. The service holds a body from the start of reading until the notification is
/// recorded. A request over this limit gets a 500 response, and the sender may retry it.
const MAX_LARGE_BODIES: usize = 64;

/// The time limit for draining a body that is too large. Draining reads the rest of the body and discards it. Then the service
/// responds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The size limit for draining, as a multiple of the size limit of a body. Most clients read the response only after they have
/// sent the whole body.
const DRAIN_LIMIT_FACTOR: usize = 4;

/// Reads bodies within the limits of the settings.
pub(super) struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    large_body_permits: Arc<Semaphore>,
}

/// A body in memory.
pub(super) struct BufferedBody {
    pub(super) bytes: Bytes,
    /// The permit of a large body. It is held while the body or its parsed content is in memory.
    pub(super) large_body_permit: Option<OwnedSemaphorePermit>,
}

/// The reason why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadError {
    TooLarge,
    TimedOut,
    /// The connection or the stream ended before the end of the body.
    Incomplete,
    TooManyLargeBodies,
}

/// The logged cause when no permit is free.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_LARGE_BODIES} bodies over {SMALL_BODY_BYTES} bytes are already in flight")]
struct TooManyLargeBodies;

impl BodyReader {
    /// Creates a reader of bodies of at most `max_bytes`. Each body must be complete within `timeout`.
    pub(super) fn new(max_bytes: usize, timeout: Duration) -> Self {
        Self {
            max_bytes,
            timeout,
            large_body_permits: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
        }
    }

    /// Reads a body to its end. Drains a body over the limit for a while, because most clients read the response only after they
    /// have sent the whole body.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<BufferedBody, Problem> {
        let read = if content_length(headers).is_some_and(|length| length > self.max_bytes) {
            Err(ReadError::TooLarge)
        } else {
            let collected = timeout(self.timeout, self.collect(&mut body)).await;
            collected.unwrap_or(Err(ReadError::TimedOut))
        };
        let error = match read {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        // A client that expects 100-continue waits for a response before it sends the body.
        if error == ReadError::TooLarge && !headers.contains_key(EXPECT) {
            drain(body, self.max_bytes.saturating_mul(DRAIN_LIMIT_FACTOR)).await;
        }
        Err(self.problem(error))
    }

    /// Collects the chunks. The first chunk is usually the whole body, so it is copied only if another chunk follows.
    async fn collect(&self, body: &mut Body) -> Result<BufferedBody, ReadError> {
        let mut body = Limited::new(body, self.max_bytes);
        let first = next_chunk(&mut body).await?.unwrap_or_default();
        let mut large_body_permit = self.permit_for(first.len())?;
        let mut joined = None;
        while let Some(chunk) = next_chunk(&mut body).await? {
            let joined = joined.get_or_insert_with(|| BytesMut::from(&first[..]));
            joined.extend_from_slice(&chunk);
            if large_body_permit.is_none() {
                large_body_permit = self.permit_for(joined.len())?;
            }
        }
        Ok(BufferedBody {
            bytes: joined.map_or(first, BytesMut::freeze),
            large_body_permit,
        })
    }

    /// Takes a permit for a body that has reached this length. Returns `None` while the body is small.
    fn permit_for(&self, length: usize) -> Result<Option<OwnedSemaphorePermit>, ReadError> {
        if length <= SMALL_BODY_BYTES {
            return Ok(None);
        }
        let permit = Arc::clone(&self.large_body_permits).try_acquire_owned();
        permit.map(Some).map_err(|_| ReadError::TooManyLargeBodies)
    }

    fn problem(&self, error: ReadError) -> Problem {
        match error {
            ReadError::TooLarge => Problem::of(ProblemType::BodyTooLarge).detail(format!(
                "The body has more than {} bytes. Send a smaller body, or raise server.body_limit_bytes.",
                self.max_bytes
            )),
            ReadError::TimedOut => Problem::of(ProblemType::ReadTimeout).detail(format!(
                "The body was not complete within {} s. Send it faster, or raise server.read_timeout_secs.",
                self.timeout.as_secs()
            )),
            ReadError::Incomplete => Problem::rejected(RejectionReason::InvalidPayload)
                .detail("The body ended before it was complete. Send it again."),
            ReadError::TooManyLargeBodies => {
                Problem::of(ProblemType::Internal).caused_by(TooManyLargeBodies)
            }
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the next chunk of a body, or `None` at its end. Skips trailers.
async fn next_chunk(body: &mut Limited<&mut Body>) -> Result<Option<Bytes>, ReadError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ReadError::TooLarge
            } else {
                ReadError::Incomplete
            }
        })?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Reads and discards up to `max_bytes` more bytes.
async fn drain(body: Body, max_bytes: usize) {
    let mut body = Limited::new(body, max_bytes);
    let draining = async { while let Some(Ok(_)) = body.frame().await {} };
    // The response does not depend on whether the client has sent the whole body.
    let _timed_out = timeout(DRAIN_TIMEOUT, draining).await;
}

#[cfg(test)]
mod tests;
