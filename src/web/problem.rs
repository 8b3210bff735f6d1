//! Error responses as problem documents: `application/problem+json`, RFC 9457.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::domain::outcome::RejectionReason;
use crate::telemetry::chain;

/// The type of a problem. Each type needs a different reaction of the client. The name is stable, so clients may compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProblemType {
    /// The webhook was refused for this reason.
    Rejected(RejectionReason),
    RateLimited,
    NoSuchRoute,
    MethodNotAllowed,
    HeadTooLarge,
    BodyTooLarge,
    ReadTimeout,
    /// The service is overloaded: too many requests are in flight.
    Busy,
    /// The request of the API breaks a rule.
    InvalidRequest,
    /// The request of the API has no valid token.
    InvalidToken,
    /// The token does not allow the request.
    InsufficientScope,
    UnsupportedMediaType,
    /// Another image has the id.
    ImageExists,
    /// A request with the same idempotency key is in progress.
    RequestInProgress,
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused,
    /// Cloudflare refuses further calls for a while.
    CloudflareRateLimited,
    /// Cloudflare refused the service's own credentials, or its answer cannot be understood.
    CloudflareFailed,
    CloudflareUnavailable,
    CloudflareNotConfigured,
    CloudflareTimeout,
    /// The service failed. The log has the cause.
    Internal,
}

impl ProblemType {
    #[expect(
        clippy::match_same_arms,
        reason = "each type has a line, which a test of the documentation reads"
    )]
    fn status(self) -> StatusCode {
        match self {
            Self::Rejected(reason) => StatusCode::from_u16(reason.http_status())
                .expect("every status of the domain has three digits"),
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSuchRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ReadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ImageExists => StatusCode::CONFLICT,
            Self::RequestInProgress => StatusCode::CONFLICT,
            Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::CloudflareRateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::CloudflareFailed => StatusCode::BAD_GATEWAY,
            Self::CloudflareUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::CloudflareNotConfigured => StatusCode::SERVICE_UNAVAILABLE,
            Self::CloudflareTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the number of seconds that a client should wait before it retries.
    fn retry_after(self) -> Option<u64> {
        // A healthy database records the whole queue within this time, and Cloudflare creates an upload URL.
        matches!(self, Self::Busy | Self::RequestInProgress).then_some(1)
    }

    /// Returns the header of a response that asks for a token (RFC 6750, section 3).
    fn challenge(self) -> Option<HeaderValue> {
        let challenge = HeaderValue::from_static("Bearer");
        (self == Self::InvalidToken).then_some(challenge)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rejected(reason) => reason.name(),
            Self::RateLimited => "rate-limited",
            Self::NoSuchRoute => "no-such-route",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::HeadTooLarge => "head-too-large",
            Self::BodyTooLarge => "body-too-large",
            Self::ReadTimeout => "read-timeout",
            Self::Busy => "busy",
            Self::InvalidRequest => "invalid-request",
            Self::InvalidToken => "invalid-token",
            Self::InsufficientScope => "insufficient-scope",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::ImageExists => "image-exists",
            Self::RequestInProgress => "request-in-progress",
            Self::IdempotencyKeyReused => "idempotency-key-reused",
            Self::CloudflareRateLimited => "cloudflare-rate-limited",
            Self::CloudflareFailed => "cloudflare-failed",
            Self::CloudflareUnavailable => "cloudflare-unavailable",
            Self::CloudflareNotConfigured => "cloudflare-not-configured",
            Self::CloudflareTimeout => "cloudflare-timeout",
            Self::Internal => "internal-error",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rejected(RejectionReason::InvalidPayload) => "The body is not a valid webhook",
            Self::Rejected(RejectionReason::Unauthenticated) => "The request is not authenticated",
            Self::Rejected(RejectionReason::AddressNotAllowed) => {
                "The client address is not allowed"
            }
            Self::Rejected(RejectionReason::UnknownImage) => "The image is unknown",
            Self::RateLimited => "Too many requests; try again later",
            Self::NoSuchRoute => "The path does not exist",
            Self::MethodNotAllowed => "The method is not allowed",
            Self::HeadTooLarge => "The request has too many headers",
            Self::BodyTooLarge => "The body is too large",
            Self::ReadTimeout => "The body did not arrive in time",
            Self::Busy => "The service is overloaded; try again later",
            Self::InvalidRequest => "The request is not valid",
            Self::InvalidToken => "The request has no valid token",
            Self::InsufficientScope => "The token does not allow this request",
            Self::UnsupportedMediaType => "The content type is not supported",
            Self::ImageExists => "The image exists already",
            Self::RequestInProgress => "The same request is in progress; try again later",
            Self::IdempotencyKeyReused => "The idempotency key belongs to another request",
            Self::CloudflareRateLimited => "Cloudflare allows no further calls; try again later",
            Self::CloudflareFailed => "Cloudflare did not do what the service asked for",
            Self::CloudflareUnavailable => "Cloudflare is not available; try again later",
            Self::CloudflareNotConfigured => "The service has no account at Cloudflare",
            Self::CloudflareTimeout => "Cloudflare did not answer in time; try again later",
            Self::Internal => "The service failed; try again later",
        }
    }
}

/// An error response, with its cause for the log.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: ProblemType,
    detail: Option<String>,
    field: Option<String>,
    cause: Option<Cause>,
    /// The value of the header `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

/// The cause of an error response, for the log only. It is an extension of the response and never part of the body.
#[derive(Debug, Clone)]
pub(crate) struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Makes the cause of a response that is not a problem document.
    pub(crate) fn of(cause: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(cause))
    }

    /// Returns the error and its sources, for the log.
    pub(super) fn chain(&self) -> String {
        chain(&*self.0)
    }
}

/// The name and the detail of a problem, for the access log. Neither repeats the body of the request.
#[derive(Debug, Clone)]
pub(super) struct LoggedProblem {
    pub(super) name: &'static str,
    pub(super) detail: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    /// Returns the problem of a webhook that was refused for this reason.
    pub(crate) fn rejected(reason: RejectionReason) -> Self {
        Self::of(ProblemType::Rejected(reason))
    }

    /// Returns a problem of this type without a detail.
    pub(crate) fn of(problem_type: ProblemType) -> Self {
        Self {
            kind: problem_type,
            detail: None,
            field: None,
            cause: None,
            retry_after: problem_type.retry_after(),
        }
    }

    /// Adds an explanation for people: what failed, and what to do.
    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }

    /// Sets the time that a client should wait before it retries, rounded up to whole seconds.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self {
            retry_after: Some(seconds.max(1)),
            ..self
        }
    }

    /// Adds the field of the body that breaks a rule.
    pub(crate) fn field(self, field: Option<String>) -> Self {
        Self { field, ..self }
    }

    /// Adds the cause, which only the log shows.
    pub(crate) fn caused_by(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            cause: Some(Cause::of(cause)),
            ..self
        }
    }

    /// Returns the cause and its sources, for the log.
    pub(crate) fn cause(&self) -> Option<String> {
        self.cause.as_ref().map(Cause::chain)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let document = Document {
            r#type: format!("urn:cloudflare-images-webhook:problem:{}", self.kind.name()),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: self.detail.as_deref(),
            field: self.field.as_deref(),
        };
        let body = serde_json::to_vec(&document).expect("texts and a number can be serialized");

        let content_type = (
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let mut response = (status, [content_type], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.kind.challenge() {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(LoggedProblem {
            name: self.kind.name(),
            detail: self.detail,
        });
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}
