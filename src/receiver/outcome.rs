//! What a webhook came to, as an answer. The one place where that becomes an HTTP status.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::payload::PayloadError;
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::notification::Recorded;
use crate::domain::telling::Effect;
use crate::web::{Kind, LogFields, Problem, Weight};

/// What a webhook came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The row changed.
    Applied(Status),
    /// The row says so already.
    Duplicate(Status),
    /// What was told is out of date.
    Stale(Status),
    /// Cloudflare's "Save and Test".
    Test,
    /// An alert of another product.
    Ignored,
    /// There is no such row.
    UnknownImage,
    /// The body breaks a rule.
    Broken,
}

#[derive(Serialize)]
struct Body<'a> {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

impl Outcome {
    pub(super) fn of(recorded: Recorded) -> Self {
        match recorded {
            Recorded::Image {
                effect: Effect::Applied,
                status,
            } => Self::Applied(status),
            Recorded::Image {
                effect: Effect::Duplicate,
                status,
            } => Self::Duplicate(status),
            Recorded::Image {
                effect: Effect::Stale,
                status,
            } => Self::Stale(status),
            Recorded::TestMessage => Self::Test,
            Recorded::OtherProduct => Self::Ignored,
            Recorded::UnknownImage => Self::UnknownImage,
            Recorded::Broken => Self::Broken,
        }
    }

    /// The answer, with what the log wants to know about it.
    pub(super) fn answer(self, id: Option<CloudflareId>) -> Response {
        let (outcome, status) = match self {
            Self::Applied(status) => ("applied", Some(status)),
            Self::Duplicate(status) => ("duplicate", Some(status)),
            Self::Stale(status) => ("stale", Some(status)),
            Self::Test => ("test", None),
            Self::Ignored => ("ignored", None),
            Self::UnknownImage => return Self::failed(unknown_image(), id),
            Self::Broken => return Self::failed(Problem::of(Kind::InvalidPayload), id),
        };
        let body = Body {
            outcome,
            id: id.as_ref().map(CloudflareId::as_str),
            status: status.map(Status::as_str),
        };
        let response = Json(body).into_response();
        logged(
            response,
            LogFields {
                outcome: Some(outcome),
                image_id: id.map(|id| id.to_string()),
                weight: Weight::Normal,
            },
        )
    }

    /// A problem about an image, if it is about one.
    pub(super) fn failed(problem: Problem, id: Option<CloudflareId>) -> Response {
        logged(
            problem.into_response(),
            LogFields {
                outcome: None,
                image_id: id.map(|id| id.to_string()),
                weight: Weight::Normal,
            },
        )
    }
}

fn logged(mut response: Response, fields: LogFields) -> Response {
    response.extensions_mut().insert(fields);
    response
}

fn unknown_image() -> Problem {
    Problem::of(Kind::UnknownImage).detail(
        "No row of cloudflare_images has this cloudflare_id. The notification is kept, and applied if one appears within \
         webhook.park_days (0: not), unless it has more than 64 KiB. Insert it when the upload URL is made, or set webhook.unknown_images to \"create\".",
    )
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        Self::of(Kind::InvalidPayload)
            .detail(error.to_string())
            .field(error.field())
    }
}
