//! The flat shape: `{"id":…,"uploaded":…,…}`. It is an image in the form of Cloudflare's API, or an upload error.

use super::error::PayloadError;
use super::field::{DETAIL_FIELDS, Fields};
use crate::domain::notification::{Report, ReportedStatus};

/// The fields that make an object a report, in addition to the details. An object with only an id reports nothing.
const REPORT_FIELDS: [&str; 4] = ["uploaded", "draft", "error", "timestamp"];

/// Returns a list of the fields that make an object a report, as text for an error.
pub(super) fn report_field_list() -> String {
    let [uploaded, draft, error, timestamp] = REPORT_FIELDS;
    let fields = [uploaded, draft]
        .into_iter()
        .chain(DETAIL_FIELDS)
        .chain([error]);
    let fields: Vec<String> = fields.map(|name| format!("{name:?}")).collect();
    format!("{} or {timestamp:?}", fields.join(", "))
}

pub(super) fn is_flat(fields: &Fields<'_>) -> bool {
    REPORT_FIELDS.into_iter().any(|name| fields.has(name)) || fields.has_details()
}

pub(super) fn parse(fields: &Fields<'_>) -> Result<Report, PayloadError> {
    let uploaded_at = fields.time("uploaded")?;
    Ok(Report {
        cloudflare_id: fields.cloudflare_id("id")?,
        status: status(fields)?,
        reported_at: fields.time("timestamp")?.or(uploaded_at),
        details: fields.details()?,
    })
}

/// Returns the reported status: failed if there is an error, else draft, else uploaded.
///
/// Cloudflare sets `uploaded` on drafts too, so `draft` has precedence. An empty error together with `uploaded` is an unused
/// field, not a failure.
fn status(fields: &Fields<'_>) -> Result<Option<ReportedStatus>, PayloadError> {
    let (error, is_draft) = (
        fields.text("error")?,
        fields.boolean("draft")?.unwrap_or(false),
    );
    let uploaded_at = fields.time("uploaded")?;
    let error = error.filter(|error| !error.is_empty() || uploaded_at.is_none());
    Ok(match (error, is_draft) {
        (Some(error), _) => Some(ReportedStatus::Failed {
            error: error.to_owned(),
        }),
        (None, true) => Some(ReportedStatus::Draft),
        (None, false) => uploaded_at.map(|at| ReportedStatus::Uploaded {
            uploaded_at: Some(at),
        }),
    })
}
