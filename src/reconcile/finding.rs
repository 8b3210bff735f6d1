//! What an answer of Cloudflare says about a waiting image. This code is pure.

use std::sync::Arc;
use std::time::Duration;

use crate::cloudflare::FoundImage;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Content, Notification, Report, ReportedStatus, RequestInfo};
use crate::domain::timestamp::Timestamp;
use crate::receiver::payload::{PayloadError, parse_description};

/// The time after the end of an upload URL after which no upload is expected. The clocks may differ, and an upload takes time.
const EXPIRY_GRACE: Duration = Duration::from_mins(1);

/// The longest wait before the next lookup of an image whose upload URL still works.
const MAX_WAIT: Duration = Duration::from_hours(1);

/// The wait after the first lookup of an image whose answer cannot be used. It doubles with each attempt.
const FIRST_FAILURE_WAIT: Duration = Duration::from_hours(1);

/// The longest wait after such an answer.
const MAX_FAILURE_WAIT: Duration = Duration::from_hours(24);

/// The payload in the audit log for an image that Cloudflare does not have.
const NOT_FOUND: &str = r#"{"found":false}"#;

/// What an answer says about an image.
#[derive(Debug, Clone)]
pub(super) enum Finding {
    /// The upload has ended, or its URL has expired.
    Settled(Arc<Notification>),
    /// The upload can still take place.
    Waits,
}

/// Returns what an answer says. `None` means that Cloudflare does not have the image.
///
/// The report has a time of its own: the upload, or the end of the upload URL. So a webhook and a lookup give the same row in both
/// orders, and a second lookup changes nothing.
pub(super) fn judge(
    id: &CloudflareId,
    expires_at: Option<Timestamp>,
    answer: Option<FoundImage>,
    now: Timestamp,
) -> Result<Finding, PayloadError> {
    let passed_end = expires_at.filter(|end| end.saturating_add(EXPIRY_GRACE) <= now);
    let (status, reported_at, description) = match (answer, passed_end) {
        (Some(image), _) if !image.is_draft() => {
            let uploaded_at = image.uploaded_at();
            let description = parse_description(image.object)?;
            let status = ReportedStatus::Uploaded { uploaded_at };
            (status, uploaded_at, Some(description))
        }
        (Some(image), Some(end)) => {
            let mut description = parse_description(image.object)?;
            description.details = ReportedDetails::default();
            (ReportedStatus::Expired, Some(end), Some(description))
        }
        (None, Some(end)) => (ReportedStatus::Expired, Some(end), None),
        (_, None) => return Ok(Finding::Waits),
    };
    let (details, payload) = match description {
        Some(description) => (description.details, description.payload),
        None => (
            ReportedDetails::default(),
            Json::from_canonical(NOT_FOUND.to_owned()),
        ),
    };
    Ok(Finding::Settled(Arc::new(Notification {
        content: Content::Report(Report {
            cloudflare_id: id.clone(),
            status: Some(status),
            reported_at,
            details,
        }),
        payload,
        received_at: now,
        request_info: RequestInfo::default(),
    })))
}

/// Returns the time until the next lookup of an image whose upload can still take place: at the end of the upload URL, or earlier.
pub(super) fn wait_for_upload(
    attempts: u32,
    after: Duration,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Duration {
    let doubled = after.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)));
    let wait = doubled.min(MAX_WAIT);
    let end = expires_at.map(|end| end.saturating_add(EXPIRY_GRACE));
    match end.and_then(|end| until(end, now)) {
        Some(rest) => wait.min(rest),
        None => wait,
    }
}

/// Returns the time until the next lookup of an image whose answer could not be used.
pub(super) fn wait_after_failure(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    FIRST_FAILURE_WAIT
        .saturating_mul(doubled)
        .min(MAX_FAILURE_WAIT)
}

/// Returns the time until `end`. `None` if it has passed.
fn until(end: Timestamp, now: Timestamp) -> Option<Duration> {
    let micros = end.unix_micros().checked_sub(now.unix_micros())?;
    let micros = u64::try_from(micros).ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests;
