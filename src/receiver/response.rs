//! The response to a webhook: the only place that maps an outcome to an HTTP response.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::payload::PayloadError;
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::web::{LogFields, LogLevel, Problem};

#[derive(Serialize)]
struct ResponseBody<'a> {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

/// Returns the response to a webhook with this outcome. It carries the fields for the access log.
pub(super) fn of_outcome(outcome: Outcome, id: Option<CloudflareId>) -> Response {
    if let Outcome::Rejected(reason) = outcome {
        return of_problem(rejection_problem(reason), id);
    }
    let body = ResponseBody {
        outcome: outcome.name(),
        id: id.as_ref().map(CloudflareId::as_str),
        status: outcome.status().map(Status::name),
    };
    let response = Json(body).into_response();
    with_log_fields(response, Some(outcome.name()), id)
}

/// Returns the response with this problem, with the image for the access log.
pub(super) fn of_problem(problem: Problem, id: Option<CloudflareId>) -> Response {
    with_log_fields(problem.into_response(), None, id)
}

fn with_log_fields(
    mut response: Response,
    outcome: Option<&'static str>,
    id: Option<CloudflareId>,
) -> Response {
    response.extensions_mut().insert(LogFields {
        outcome,
        image_id: id.map(|id| id.to_string()),
        level: LogLevel::Info,
    });
    response
}

/// Returns the problem of a rejection, with an explanation.
pub(super) fn rejection_problem(reason: RejectionReason) -> Problem {
    let problem = Problem::rejected(reason);
    match reason {
        RejectionReason::UnknownImage => problem.detail(
            "No row of cloudflare_images has this cloudflare_id. Insert the row within webhook.parked_ttl_days, and the service \
             applies this webhook if its body is at most 64 KiB.",
        ),
        RejectionReason::Unauthenticated => problem.detail(
            "The request has no valid credential. The sender must use a secret in webhook.secrets and a scheme in \
             webhook.schemes.",
        ),
        RejectionReason::AddressNotAllowed => problem.detail(
            "The client address is not in webhook.allowed_addresses. If it belongs to a proxy, add the proxy to \
             server.trusted_proxies.",
        ),
        RejectionReason::InvalidPayload => problem,
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        Self::rejected(RejectionReason::InvalidPayload)
            .detail(error.to_string())
            .field(error.field())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_status_of_outcome() {
        let outcomes = [
            Outcome::Applied(Status::Uploaded),
            Outcome::Duplicate(Status::Uploaded),
            Outcome::Stale(Status::Failed),
            Outcome::Accepted(Status::Pending),
            Outcome::Test,
            Outcome::Ignored,
        ];
        let rejections = RejectionReason::ALL.map(Outcome::Rejected);
        for outcome in outcomes.into_iter().chain(rejections) {
            let response = of_outcome(outcome, None);

            assert_eq!(response.status().as_u16(), outcome.http_status());
        }
    }
}
