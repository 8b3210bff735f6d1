//! The problems of failed requests: the only place that maps errors of actions to HTTP.

use crate::application::uploads::UploadError;
use crate::cloudflare::ErrorKind;
use crate::store::StoreError;
use crate::web::{Problem, ProblemType};

/// The problem of a request whose field breaks a rule.
pub(super) fn invalid_field(field: &str, rule: &str) -> Problem {
    Problem::of(ProblemType::InvalidRequest)
        .detail(format!("The field {field} {rule}."))
        .field(Some(field.to_owned()))
}

/// The problem of a request that needs Cloudflare, while the settings have no account.
pub(super) fn not_configured() -> Problem {
    Problem::of(ProblemType::CloudflareNotConfigured).detail(
        "The service has no account at Cloudflare. Set cloudflare.account_id and cloudflare.api_token.",
    )
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::MetadataTooLong => {
                invalid_field("metadata", "must have at most 1024 bytes of JSON")
            }
            UploadError::IdWithSignedUrls => invalid_field(
                "id",
                "must be absent if require_signed_urls is true, because Cloudflare then makes the id",
            ),
            UploadError::IdNotCustom => invalid_field(
                "id",
                "must not be a UUID, and must not begin or end with a slash",
            ),
            UploadError::IdTooLong => invalid_field("id", "must have at most 2600 bytes"),
            UploadError::Exists(_) => Self::of(ProblemType::ImageExists)
                .detail("A row of cloudflare_images has this id. Use another id."),
            UploadError::Api(error) => {
                let problem = match &error.kind {
                    ErrorKind::AlreadyExists => {
                        return Self::of(ProblemType::ImageExists).detail(
                            "Cloudflare already has an image with this id. Use another id.",
                        );
                    }
                    ErrorKind::RateLimited { retry_after } => {
                        Self::of(ProblemType::CloudflareRateLimited).retry_after(*retry_after)
                    }
                    ErrorKind::Unavailable(_) => Self::of(ProblemType::CloudflareUnavailable),
                    ErrorKind::TimedOut { .. } => Self::of(ProblemType::CloudflareTimeout),
                    ErrorKind::LimitUnknown(_) => Self::of(ProblemType::Internal),
                    ErrorKind::Unauthorized
                    | ErrorKind::Forbidden
                    | ErrorKind::NotFound
                    | ErrorKind::Refused
                    | ErrorKind::Unexpected(_) => Self::of(ProblemType::CloudflareFailed),
                };
                problem.caused_by(error)
            }
            UploadError::UrlLost(_) => Self::of(ProblemType::ImageExists).detail(
                "Cloudflare has an image with this id. If an earlier request with this key failed, its URL is lost, so use another id.",
            ),
            UploadError::KeyReused => Self::of(ProblemType::IdempotencyKeyReused)
                .detail("An earlier request with this Idempotency-Key had another body. Use a new key."),
            UploadError::InProgress => Self::of(ProblemType::RequestInProgress)
                .detail("A request with this Idempotency-Key is in progress. Send it again later."),
            UploadError::Stopping => Self::of(ProblemType::Busy)
                .detail("The service is stopping, and Cloudflare has not answered. Send the request again."),
            UploadError::InvalidId => Self::of(ProblemType::CloudflareFailed).caused_by(error),
            UploadError::RowDeleted(_) => Self::of(ProblemType::Internal).caused_by(error),
            UploadError::Store(error) => of_store(error),
        }
    }
}

fn of_store(error: StoreError) -> Problem {
    let problem_type = if error.is_overload() {
        ProblemType::Busy
    } else {
        ProblemType::Internal
    };
    Problem::of(problem_type).caused_by(error)
}
