//! The gate: reads the body once, under its limit and its deadline, and asks for proof of the sender.
//!
//! It is an extractor, so that the handler can take a [`Verified`] body and cannot be reached without one. It never parses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Receiver;
use super::admission::NotAdmitted;
use super::answer::rejection;
use crate::domain::notification::Origin;
use crate::domain::outcome::RejectionReason;
use crate::domain::timestamp::Timestamp;
use crate::signing::{Scheme, Verifier};
use crate::web::{ClientAddress, Problem, ProblemType, RequestId};

/// A body over this size is hashed off the async threads, which have other requests to serve meanwhile; and only so many are
/// held in memory at once. What Cloudflare sends is far smaller, and never waits for a larger one.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// How many bodies over that size are held in memory at once, from their reading to their commit; another is answered with
/// 500, and may be sent again.
const MAX_LARGE_BODIES: usize = 64;

/// How long a body that is too large is read on, for the client to read its answer.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// How many times the limit is read of a body that is too large before the connection is given up. Most clients read no answer
/// before they have sent all they have.
const DRAINED_TIMES_LIMIT: usize = 4;

/// The gate's limits.
#[derive(Debug)]
pub(crate) struct Limits {
    /// The largest body that is read.
    body_bytes: usize,
    /// How long the body may take to arrive.
    body_timeout: Duration,
    large_bodies: Arc<Semaphore>,
}

impl Limits {
    /// Bodies of at most so many bytes, each within so long.
    pub(crate) fn new(body_bytes: usize, body_timeout: Duration) -> Self {
        Self {
            body_bytes,
            body_timeout,
            large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
        }
    }
}

/// A body whose sender has proved to know a secret, or needs not to.
pub(super) struct Verified {
    /// The body.
    pub(super) body: Bytes,
    /// When its last byte was read.
    pub(super) received_at: Timestamp,
    /// How it came.
    pub(super) origin: Origin,
    /// Its place among the large bodies, if it is one; to be held for as long as anything of it is.
    pub(super) room: Option<OwnedSemaphorePermit>,
    /// Its place among those that are worked on.
    pub(super) in_flight: OwnedSemaphorePermit,
}

impl FromRequest<Arc<Receiver>> for Verified {
    type Rejection = Problem;

    async fn from_request(request: Request, receiver: &Arc<Receiver>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let scheme = Scheme::tried(&head.headers);
        let client = head.extensions.get::<ClientAddress>();
        let client = client.map(ClientAddress::ip);
        let count = |reason, at| receiver.refusal_counter.count(reason, at, scheme, client);
        let in_flight = receiver.admission.admit(client).map_err(|why| {
            if why == NotAdmitted::FromElsewhere {
                count(RejectionReason::AddressNotAllowed, receiver.clock.now());
            }
            Problem::from(why)
        })?;
        let (body, room) = read(&head.headers, body, &receiver.gate).await?;
        let received_at = receiver.clock.now();
        // Where no secret is configured nothing is proved, whatever the request brings along.
        let proof = scheme.filter(|_| !receiver.verifier.is_open());
        let origin = origin(&head, proof, client);

        if verify(&receiver.verifier, head.headers, body.clone(), received_at).await? {
            Ok(Self {
                body,
                received_at,
                origin,
                room,
                in_flight,
            })
        } else {
            count(RejectionReason::Unauthenticated, received_at);
            Err(rejection(RejectionReason::Unauthenticated))
        }
    }
}

impl From<NotAdmitted> for Problem {
    fn from(why: NotAdmitted) -> Self {
        match why {
            NotAdmitted::FromElsewhere => rejection(RejectionReason::AddressNotAllowed),
            NotAdmitted::ClientTooOften(wait) => Self::of(ProblemType::RateLimited)
                .detail("One client may not send so many a second (webhook.client_rate_limit_per_second).")
                .retry_after(wait),
            NotAdmitted::TooOften(wait) => Self::of(ProblemType::RateLimited)
                .detail("So many a second are not taken in all (webhook.rate_limit_per_second).")
                .retry_after(wait),
            NotAdmitted::TooManyAtOnce => Self::of(ProblemType::Busy).caused_by(TooManyAtOnce),
        }
    }
}

/// More webhooks are in flight than may be.
#[derive(Debug, thiserror::Error)]
#[error("too many webhooks are being worked on already (webhook.max_in_flight)")]
struct TooManyAtOnce;

fn origin(head: &Parts, scheme: Option<Scheme>, client: Option<IpAddr>) -> Origin {
    let request_id = head.extensions.get::<RequestId>();
    Origin {
        request_id: request_id.map(RequestId::shared),
        client,
        scheme: scheme.map(Scheme::name),
    }
}

async fn read(headers: &HeaderMap, mut body: Body, limits: &Limits) -> Result<Whole, Problem> {
    let read =
        tokio::time::timeout(limits.body_timeout, read_up_to(headers, &mut body, limits)).await;
    match read {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(Unread::Refused(problem))) => Err(problem),
        Ok(Err(Unread::TooLarge)) => {
            // A client that expects 100-continue has sent nothing yet. It has to read the refusal first.
            if !headers.contains_key(EXPECT) {
                drain(&mut body, limits.body_bytes).await;
            }
            Err(Problem::of(ProblemType::BodyTooLarge).detail(format!(
                "A body may have up to {} bytes.",
                limits.body_bytes
            )))
        }
        Err(_) => Err(Problem::of(ProblemType::ReadTimeout).detail(format!(
            "The body must be complete {} s after the request's head.",
            limits.body_timeout.as_secs()
        ))),
    }
}

/// Why there is no body.
enum Unread {
    TooLarge,
    Refused(Problem),
}

async fn read_up_to(
    headers: &HeaderMap,
    body: &mut Body,
    limits: &Limits,
) -> Result<Whole, Unread> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.body_bytes) {
        return Err(Unread::TooLarge);
    }
    let first = next_chunk(body)
        .await
        .map_err(Unread::Refused)?
        .unwrap_or_default();
    let (mut rest, mut room) = (None, None);
    while let Some(chunk) = next_chunk(body).await.map_err(Unread::Refused)? {
        let read = rest.get_or_insert_with(|| BytesMut::from(&first[..]));
        let length = read.len() + chunk.len();
        if length > limits.body_bytes {
            return Err(Unread::TooLarge);
        }
        if length > SMALL_BODY_BYTES && room.is_none() {
            let Ok(place) = Arc::clone(&limits.large_bodies).try_acquire_owned() else {
                return Err(Unread::Refused(
                    Problem::of(ProblemType::Internal).caused_by(TooManyLargeBodies),
                ));
            };
            room = Some(place);
        }
        read.extend_from_slice(&chunk);
    }
    let whole = rest.map_or(first, BytesMut::freeze);
    if whole.len() > limits.body_bytes {
        Err(Unread::TooLarge)
    } else {
        Ok((whole, room))
    }
}

/// A body, and its place among the large ones.
type Whole = (Bytes, Option<OwnedSemaphorePermit>);

/// More large bodies are in memory than we want; that is our limit, and no fault of the sender's.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_LARGE_BODIES} bodies over {SMALL_BODY_BYTES} bytes are being worked on already")]
struct TooManyLargeBodies;

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::rejected(RejectionReason::InvalidPayload)
                .detail("The body ended before it was complete.")
        })?;
        // Anything but data is a trailer, which says nothing to us.
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Reads on for a while and forgets what it reads, so that the client gets to read the answer.
async fn drain(body: &mut Body, limit: usize) {
    let _gave_up = tokio::time::timeout(DRAIN_DEADLINE, drain_up_to(body, limit)).await;
}

async fn drain_up_to(body: &mut Body, limit: usize) {
    let mut left = limit.saturating_mul(DRAINED_TIMES_LIMIT);
    while let Ok(Some(chunk)) = next_chunk(body).await {
        let Some(still_left) = left.checked_sub(chunk.len()) else {
            return;
        };
        left = still_left;
    }
}

async fn verify(
    verifier: &Arc<Verifier>,
    headers: HeaderMap,
    body: Bytes,
    now: Timestamp,
) -> Result<bool, Problem> {
    if verifier.is_open() {
        return Ok(true);
    }
    if body.len() <= SMALL_BODY_BYTES {
        return Ok(verifier.accepts(&headers, &body, now));
    }
    let verifier = Arc::clone(verifier);
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(|| verifier.accepts(&headers, &body, now)))
        .await
        .map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))
}
