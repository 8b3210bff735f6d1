//! The gate: the middleware of the webhook route. It authenticates a request before the body is parsed.
//!
//! ```text
//! limits of the client ──► body (read once) ──► signing ──► limits of all clients ──► AuthenticatedBody ──► handler
//! ```
//!
//! Until a request is authenticated, its head and body count towards the memory budget.
//!
//! The handler takes an [`AuthenticatedBody`], which only this file creates. [`protect`] is the only way to route such a handler.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{AdmissionError, SMALL_BODY_BYTES};
use super::body::Framing;
use super::memory_budget::Reservation;
use super::response::rejection_problem;
use super::state::Receiver;
use crate::domain::notification::RequestInfo;
use crate::domain::outcome::RejectionReason;
use crate::domain::timestamp::Timestamp;
use crate::signing::{Scheme, Verification};
use crate::web::{ClientAddress, Problem, ProblemType, RequestId};

/// The memory that a request needs in addition to its head and body: its task, its buffers and its entry in the log.
const REQUEST_OVERHEAD_BYTES: usize = 4096;

/// The memory that a header needs in addition to its name and value.
const FIELD_OVERHEAD_BYTES: usize = 128;

/// The longest time that a large body waits until it is hashed. A body of the maximum size is hashed in milliseconds.
const HASHING_WAIT: Duration = Duration::from_secs(5);

/// Routes POST requests through the gate to a handler. Requests with other methods get 405, and do not reach the gate.
pub(super) fn protect<H, T>(handler: H, receiver: Arc<Receiver>) -> MethodRouter
where
    H: Handler<T, GatedReceiver>,
    T: 'static,
{
    post(handler)
        .route_layer(from_fn_with_state(Arc::clone(&receiver), authenticate))
        .with_state(GatedReceiver(receiver))
}

/// The state of a handler behind the gate. Only [`protect`] creates it, so such a handler cannot be routed without the gate.
#[derive(Clone)]
pub(super) struct GatedReceiver(Arc<Receiver>);

impl FromRef<GatedReceiver> for Arc<Receiver> {
    fn from_ref(gated: &GatedReceiver) -> Self {
        Self::clone(&gated.0)
    }
}

/// The body of an authenticated request, or of any request while authentication is disabled.
pub(super) struct AuthenticatedBody {
    body: Bytes,
    large_body_permit: Option<OwnedSemaphorePermit>,
    receipt: Receipt,
}

/// The time of receipt, and the request's id, client address and scheme.
pub(super) struct Receipt {
    /// The time at which the last byte of the body was read.
    pub(super) received_at: Timestamp,
    pub(super) request_info: RequestInfo,
}

impl AuthenticatedBody {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Returns the receipt and the permit of a large body.
    pub(super) fn into_parts(self) -> (Receipt, Option<OwnedSemaphorePermit>) {
        (self.receipt, self.large_body_permit)
    }
}

/// The request extension that carries the body from the gate to the handler. An extension must be `Clone`, but this one always
/// has a single owner.
#[derive(Clone)]
struct BodyExtension(Arc<AuthenticatedBody>);

impl FromRequestParts<GatedReceiver> for AuthenticatedBody {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, _: &GatedReceiver) -> Result<Self, Problem> {
        let extension = head.extensions.remove::<BodyExtension>();
        extension
            .and_then(|extension| Arc::into_inner(extension.0))
            .ok_or_else(|| Problem::of(ProblemType::Internal).caused_by(GateBypassed))
    }
}

/// The logged cause when a handler is called without the gate. [`protect`] prevents this.
#[derive(Debug, thiserror::Error)]
#[error("the webhook handler was called for a request that did not pass the gate")]
struct GateBypassed;

/// Admits a request, reads its body, authenticates it, and calls the handler. The handler does not get the headers, because they
/// may contain a secret. It gets the body in memory, not as a stream.
async fn authenticate(
    State(receiver): State<Arc<Receiver>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut head, body) = request.into_parts();
    let headers = std::mem::take(&mut head.headers);
    let tried_scheme = Scheme::of_request(&headers);
    let client = head.extensions.get().map(ClientAddress::ip);
    let count_refusal = |reason, at| {
        let counter = &receiver.refusal_counter;
        counter.count(reason, at, tried_scheme, client);
    };

    receiver.admission.admit_client(client).map_err(|error| {
        if error == AdmissionError::AddressNotAllowed {
            count_refusal(RejectionReason::AddressNotAllowed, receiver.clock.now());
        }
        Problem::from(error)
    })?;
    let mut memory = receiver
        .memory_budget
        .reserve(client, head_size(&head, &headers))?;
    let (headers, body) = read_body(&receiver, headers, body, &mut memory).await?;
    let received_at = receiver.clock.now();
    let scheme = match verify(&receiver, headers, &body, received_at).await? {
        Verification::Disabled => None,
        Verification::Verified(scheme) => Some(scheme),
        Verification::Failed => {
            count_refusal(RejectionReason::Unauthenticated, received_at);
            return Err(rejection_problem(RejectionReason::Unauthenticated));
        }
    };
    drop(memory);
    // The request is in flight until the response is ready or the client disconnects.
    let permits = receiver.admission.admit_authenticated(body.len())?;
    let _in_flight_permit = permits.in_flight;

    let receipt = Receipt {
        received_at,
        request_info: request_info(&head, scheme, client),
    };
    let body = AuthenticatedBody {
        body,
        large_body_permit: permits.large_body,
        receipt,
    };
    head.extensions.insert(BodyExtension(Arc::new(body)));
    Ok(next.run(Request::from_parts(head, Body::empty())).await)
}

/// Returns the approximate memory of a request's head, in bytes.
fn head_size(head: &Parts, headers: &HeaderMap) -> usize {
    let path = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let fields = headers.iter();
    let fields =
        fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES);
    REQUEST_OVERHEAD_BYTES + path + fields.sum::<usize>()
}

/// Reads the body. If it has not arrived with the head, only copies of the credentials stay in memory.
async fn read_body(
    receiver: &Receiver,
    mut headers: HeaderMap,
    body: Body,
    memory: &mut Reservation<'_>,
) -> Result<(HeaderMap, Bytes), Problem> {
    let mut reading = pin!(receiver.body.read(Framing::of(&headers), body, memory));
    let read = if let Some(read) = reading.as_mut().now_or_never() {
        read
    } else {
        headers = receiver.verifier.credentials(&headers);
        reading.await
    };
    Ok((headers, read?))
}

fn request_info(head: &Parts, scheme: Option<Scheme>, client: Option<IpAddr>) -> RequestInfo {
    let request_id = head.extensions.get::<RequestId>();
    RequestInfo {
        request_id: request_id.map(RequestId::shared),
        client,
        scheme: scheme.map(Scheme::name),
    }
}

/// Verifies the request. A large body is hashed on a blocking thread, because hashing it here would delay other requests.
async fn verify(
    receiver: &Receiver,
    headers: HeaderMap,
    body: &Bytes,
    now: Timestamp,
) -> Result<Verification, Problem> {
    let verifier = &receiver.verifier;
    if body.len() <= SMALL_BODY_BYTES || verifier.is_disabled() {
        return Ok(verifier.verify(&headers, body, now));
    }
    let permit = Arc::clone(&receiver.hashing_permits).acquire_owned();
    let permit = tokio::time::timeout(HASHING_WAIT, permit)
        .await
        .map_err(|_| Problem::of(ProblemType::Busy).caused_by(TooManyHashes))?;
    let (verifier, body) = (Arc::clone(verifier), Bytes::clone(body));
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        span.in_scope(|| verifier.verify(&headers, &body, now))
    })
    .await
    .map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))
}

/// The logged cause when large bodies wait too long for their verification.
#[derive(Debug, thiserror::Error)]
#[error("too many bodies over {SMALL_BODY_BYTES} bytes wait for verification")]
struct TooManyHashes;

impl From<AdmissionError> for Problem {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::AddressNotAllowed => rejection_problem(RejectionReason::AddressNotAllowed),
            AdmissionError::ClientRateLimited(wait) => Self::of(ProblemType::RateLimited)
                .detail(
                    "This client sends more requests per second than webhook.client_rate_limit_per_second. \
                     Wait for the time in the header Retry-After.",
                )
                .retry_after(wait),
            AdmissionError::RateLimited(wait) => Self::of(ProblemType::RateLimited)
                .detail(
                    "All clients together send more requests per second than webhook.rate_limit_per_second. \
                     Wait for the time in the header Retry-After.",
                )
                .retry_after(wait),
            AdmissionError::TooManyInFlight => Self::of(ProblemType::Busy).caused_by(TooManyInFlight),
            AdmissionError::TooManyLargeBodies => {
                Self::of(ProblemType::Busy).caused_by(TooManyLargeBodies)
            }
        }
    }
}

/// The logged cause when too many requests are in flight.
#[derive(Debug, thiserror::Error)]
#[error("too many webhooks are in flight (webhook.max_in_flight)")]
struct TooManyInFlight;

/// The logged cause when too many large bodies are in memory.
#[derive(Debug, thiserror::Error)]
#[error("too many bodies over {SMALL_BODY_BYTES} bytes are in flight")]
struct TooManyLargeBodies;

#[cfg(test)]
mod tests;
