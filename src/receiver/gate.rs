//! The gate: the middleware of the webhook route. It authenticates a request before the body is parsed.
//!
//! ```text
//! admission ──► body (read once) ──► signing ──► AuthenticatedBody ──► handler
//! ```
//!
//! The handler takes an [`AuthenticatedBody`], which only this file creates. [`protect`] is the only way to route such a handler.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::AdmissionError;
use super::body::BufferedBody;
use super::response::rejection_problem;
use super::state::Receiver;
use crate::domain::notification::RequestInfo;
use crate::domain::outcome::RejectionReason;
use crate::domain::timestamp::Timestamp;
use crate::signing::{Scheme, Verification, Verifier};
use crate::web::{ClientAddress, Problem, ProblemType, RequestId};

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
    body: BufferedBody,
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
        &self.body.bytes
    }

    /// Returns the receipt and the permit of a large body.
    pub(super) fn into_parts(self) -> (Receipt, Option<OwnedSemaphorePermit>) {
        (self.receipt, self.body.large_body_permit)
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

    // The request is in flight until the response is ready or the client disconnects.
    let _in_flight_permit = receiver.admission.admit(client).map_err(|error| {
        if error == AdmissionError::AddressNotAllowed {
            count_refusal(RejectionReason::AddressNotAllowed, receiver.clock.now());
        }
        Problem::from(error)
    })?;
    let body = receiver.body.read(&headers, body).await?;
    let received_at = receiver.clock.now();
    let scheme = match verify(&receiver.verifier, headers, &body, received_at).await? {
        Verification::Disabled => None,
        Verification::Verified(scheme) => Some(scheme),
        Verification::Failed => {
            count_refusal(RejectionReason::Unauthenticated, received_at);
            return Err(rejection_problem(RejectionReason::Unauthenticated));
        }
    };
    let receipt = Receipt {
        received_at,
        request_info: request_info(&head, scheme, client),
    };
    let body = AuthenticatedBody { body, receipt };
    head.extensions.insert(BodyExtension(Arc::new(body)));
    Ok(next.run(Request::from_parts(head, Body::empty())).await)
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
    verifier: &Arc<Verifier>,
    headers: HeaderMap,
    body: &BufferedBody,
    now: Timestamp,
) -> Result<Verification, Problem> {
    if verifier.is_disabled() {
        return Ok(Verification::Disabled);
    }
    if body.large_body_permit.is_none() {
        return Ok(verifier.verify(&headers, &body.bytes, now));
    }
    let (verifier, bytes) = (Arc::clone(verifier), Bytes::clone(&body.bytes));
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(|| verifier.verify(&headers, &bytes, now)))
        .await
        .map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))
}

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
            AdmissionError::Overloaded => Self::of(ProblemType::Busy).caused_by(TooManyInFlight),
        }
    }
}

/// The logged cause when too many requests are in flight.
#[derive(Debug, thiserror::Error)]
#[error("too many webhooks are in flight (webhook.max_in_flight)")]
struct TooManyInFlight;

#[cfg(test)]
mod tests;
