//! Reads the body of a request into memory, within a size limit and one deadline. This module does not interpret the bytes.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::memory_budget::{BudgetExceeded, Reservation};
use crate::domain::outcome::RejectionReason;
use crate::web::{Problem, ProblemType, drain};

/// The size limit for draining, as a multiple of the size limit of a body. Most clients read the response only after they have
/// sent the whole body.
const DRAIN_LIMIT_FACTOR: usize = 4;

/// Reads bodies within the limits of the settings.
pub(super) struct BodyReader {
    max_bytes: usize,
    timeout: Duration,
    /// Cancelled shortly before the end of a shutdown: bodies that are not complete are given up.
    pub(super) cutoff: CancellationToken,
}

/// What the headers of a request say about its body.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Framing {
    content_length: Option<usize>,
    /// Whether the client waits for a response before it sends the body.
    expects_continue: bool,
}

impl Framing {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        Self {
            content_length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            expects_continue: headers.contains_key(EXPECT),
        }
    }
}

/// The reason why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadError {
    TooLarge,
    TimedOut,
    /// The connection or the stream ended before the end of the body.
    Incomplete,
    /// The service is stopping, and the body was not complete in time.
    Stopping,
    OutOfMemory(BudgetExceeded),
}

impl BodyReader {
    /// Creates a reader of bodies of at most `max_bytes`. Each body must be complete within `timeout`.
    pub(super) fn new(max_bytes: usize, timeout: Duration) -> Self {
        Self {
            max_bytes,
            timeout,
            cutoff: CancellationToken::new(),
        }
    }

    /// Reads a body to its end. Drains a body over the limit for a while, because most clients read the response only after they
    /// have sent the whole body. Reserves memory for each chunk that arrives.
    pub(super) async fn read(
        &self,
        framing: Framing,
        mut body: Body,
        memory: &mut Reservation<'_>,
    ) -> Result<Bytes, Problem> {
        let is_too_large = framing
            .content_length
            .is_some_and(|length| length > self.max_bytes);
        let read = if is_too_large {
            Err(ReadError::TooLarge)
        } else {
            let collected = timeout(self.timeout, self.collect(&mut body, memory));
            match self.cutoff.run_until_cancelled(collected).await {
                Some(collected) => collected.unwrap_or(Err(ReadError::TimedOut)),
                None => Err(ReadError::Stopping),
            }
        };
        let error = match read {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        // A client that expects 100-continue waits for a response before it sends the body.
        if error == ReadError::TooLarge && !framing.expects_continue {
            let draining = drain(body, self.max_bytes.saturating_mul(DRAIN_LIMIT_FACTOR));
            self.cutoff.run_until_cancelled(draining).await;
        }
        Err(self.problem(error))
    }

    /// Collects the chunks. The first chunk is usually the whole body, so it is copied only if another chunk follows.
    async fn collect(
        &self,
        body: &mut Body,
        memory: &mut Reservation<'_>,
    ) -> Result<Bytes, ReadError> {
        let mut body = Limited::new(body, self.max_bytes);
        let first = next_chunk(&mut body, memory).await?.unwrap_or_default();
        memory.grow(first.len())?;
        let mut joined: Option<BytesMut> = None;
        while let Some(chunk) = next_chunk(&mut body, memory).await? {
            let joined = joined.get_or_insert_with(|| BytesMut::from(&first[..]));
            let reserved = joined.capacity();
            joined.extend_from_slice(&chunk);
            memory.grow(joined.capacity() - reserved)?;
        }
        Ok(joined.map_or(first, BytesMut::freeze))
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
            ReadError::Stopping => Problem::of(ProblemType::Busy)
                .detail("The service is stopping, and the body was not complete. Send it again."),
            ReadError::OutOfMemory(exceeded) => exceeded.into(),
        }
    }
}

impl From<BudgetExceeded> for ReadError {
    fn from(exceeded: BudgetExceeded) -> Self {
        Self::OutOfMemory(exceeded)
    }
}

/// Returns the next chunk of a body, or `None` at its end. Skips trailers. If the chunk has not arrived, the request waits.
async fn next_chunk(
    body: &mut Limited<&mut Body>,
    memory: &mut Reservation<'_>,
) -> Result<Option<Bytes>, ReadError> {
    loop {
        let mut next = body.frame();
        let next = if let Some(next) = (&mut next).now_or_never() {
            next
        } else {
            memory.wait()?;
            next.await
        };
        let Some(frame) = next else {
            return Ok(None);
        };
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
}

#[cfg(test)]
mod tests;
