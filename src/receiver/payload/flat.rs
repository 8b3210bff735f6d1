//! The flat shape: `{"id":…,"uploaded":…,…}`. It is an image in the form of Cloudflare's API, or an upload error.

use serde_json::Value;

use super::envelope::as_text;
use super::error::PayloadError;
use super::field::{DETAIL_FIELDS, Fields};
use super::ignored::IgnoredFields;
use super::repair::{is_marked, is_marked_number};
use crate::domain::notification::{Report, ReportedStatus};
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};

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

pub(super) fn parse(
    fields: &Fields<'_>,
    ignored: &mut IgnoredFields,
) -> Result<Report, PayloadError> {
    let uploaded_at = fields.time("uploaded", ignored);
    Ok(Report {
        cloudflare_id: fields.cloudflare_id("id")?,
        status: status(fields, uploaded_at)?,
        reported_at: fields.time("timestamp", ignored).or(uploaded_at),
        details: fields.details(ignored),
    })
}

/// Returns the reported status: failed if there is an error, else draft, else uploaded.
///
/// Cloudflare sets `uploaded` on drafts too, so `draft` has precedence. An empty error together with `uploaded` is an unused
/// field, not a failure.
fn status(
    fields: &Fields<'_>,
    uploaded_at: Option<Timestamp>,
) -> Result<Option<ReportedStatus>, PayloadError> {
    let error = fields.require("error", "must be a string or a JSON object", error_text)?;
    let draft = fields.require("draft", "must be true or false", Value::as_bool)?;
    let error = error.filter(|error| !error.is_empty() || !fields.has("uploaded"));
    Ok(match (error, draft) {
        (Some(error), _) => Some(ReportedStatus::Failed { error }),
        (None, Some(true)) => Some(ReportedStatus::Draft),
        (None, Some(false) | None) => {
            let rule = InvalidTimestamp.to_string();
            fields.require("uploaded", &rule, |time| {
                says_uploaded(time).then_some(ReportedStatus::Uploaded { uploaded_at })
            })?
        }
    })
}

/// Returns the text of an error. An object or an array is an error too, unless it is empty.
fn error_text(error: &Value) -> Option<String> {
    let is_error = match error {
        Value::String(_) => !is_marked_number(error),
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(errors) => !errors.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    };
    is_error.then(|| as_text(error))
}

/// Returns whether the field `uploaded` says that the image is uploaded, even if its time cannot be read. Values such as `false` and
/// `""` may mean the opposite.
fn says_uploaded(uploaded: &Value) -> bool {
    match uploaded {
        Value::String(time) => !time.trim().is_empty() && !is_marked(uploaded),
        Value::Number(time) => time.as_f64() != Some(0.0),
        Value::Bool(is_uploaded) => *is_uploaded,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
