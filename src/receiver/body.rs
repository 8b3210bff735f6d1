//! Reads a request's body into memory, under a size limit and one deadline. Nothing here looks at the bytes.

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

/// The largest body that needs no permit. Cloudflare's webhooks are far smaller, and never wait for a larger one.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// How many larger bodies are in memory at once, each from its reading to its commit. One more is answered with 500, and the
/// sender may send it again.
const MAX_LARGE_BODIES: usize = 64;

/// How long the remainder of a body over the limit is read. The client can read its answer after that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How many times the limit is read of that remainder. Most clients read no answer before they have sent the whole body.
const DRAIN_LIMIT_FACTOR: usize = 4;

/// Reads bodies under the limits of the settings.
pub(super) struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    large_body_permits: Arc<Semaphore>,
}

/// A body in memory.
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// The permit of a large body. It is held as long as the body or anything parsed from it is in memory.
    pub(super) large_body_permit: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadError {
    TooLarge,
    TimedOut,
    /// The connection or the stream ended before the body did.
    Incomplete,
    TooManyLargeBodies,
}

/// The cause in the log when every permit is taken. The limit is the service's own, so it is no fault of the sender.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_LARGE_BODIES} bodies over {SMALL_BODY_BYTES} bytes are being worked on already")]
struct TooManyLargeBodies;

impl BodyReader {
    /// Reads bodies of at most `max_bytes`, each within `timeout`.
    pub(super) fn new(max_bytes: usize, timeout: Duration) -> Self {
        Self {
            max_bytes,
            timeout,
            large_body_permits: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
        }
    }

    /// Reads a body to its end. A body over the limit is drained for a while, so that the client reads its answer.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<ReadBody, Problem> {
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
        // A client that expects 100-continue sends nothing before it has read the refusal.
        if error == ReadError::TooLarge && !headers.contains_key(EXPECT) {
            drain(body, self.max_bytes.saturating_mul(DRAIN_LIMIT_FACTOR)).await;
        }
        Err(self.problem(error))
    }

    /// Collects the chunks. The first one, which mostly is the whole body, is not copied unless a second one follows.
    async fn collect(&self, body: &mut Body) -> Result<ReadBody, ReadError> {
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
        Ok(ReadBody {
            bytes: joined.map_or(first, BytesMut::freeze),
            large_body_permit,
        })
    }

    /// Takes a permit for a body that has reached this length; `None` while it is small.
    fn permit_for(&self, length: usize) -> Result<Option<OwnedSemaphorePermit>, ReadError> {
        if length <= SMALL_BODY_BYTES {
            return Ok(None);
        }
        let permit = Arc::clone(&self.large_body_permits).try_acquire_owned();
        permit.map(Some).map_err(|_| ReadError::TooManyLargeBodies)
    }

    fn problem(&self, error: ReadError) -> Problem {
        match error {
            ReadError::TooLarge => Problem::of(ProblemType::BodyTooLarge)
                .detail(format!("A body may have up to {} bytes.", self.max_bytes)),
            ReadError::TimedOut => Problem::of(ProblemType::ReadTimeout).detail(format!(
                "The body must be complete {} s after the request's head.",
                self.timeout.as_secs()
            )),
            ReadError::Incomplete => Problem::rejected(RejectionReason::InvalidPayload)
                .detail("The body ended before it was complete."),
            ReadError::TooManyLargeBodies => {
                Problem::of(ProblemType::Internal).caused_by(TooManyLargeBodies)
            }
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the next data of a body; `None` at its end. Trailers are ignored.
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

/// Reads up to `max_bytes` more and drops them.
async fn drain(body: Body, max_bytes: usize) {
    let mut body = Limited::new(body, max_bytes);
    let draining = async { while let Some(Ok(_)) = body.frame().await {} };
    // The answer is the same whether the client has sent the whole body or not.
    let _timed_out = timeout(DRAIN_TIMEOUT, draining).await;
}

#[cfg(test)]
mod tests;
