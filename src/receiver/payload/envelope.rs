//! What Cloudflare really sends: a notification with the image somewhere under `data`, where the settings say.

use serde_json::Value;

use super::error::PayloadError;
use super::field::{Fields, parse_id};
use super::pointer::Pointer;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Report, ReportedStatus};

/// The alert type of Cloudflare Images, for success and failure alike.
const IMAGES_ALERT: &str = "image_notification";

/// Where to look, as JSON pointers; the first that leads to something other than null counts.
#[derive(Debug, Clone)]
pub struct Pointers {
    /// Which image.
    pub id: Vec<Pointer>,
    /// What became of it.
    pub status: Vec<Pointer>,
    /// Why it failed.
    pub error: Vec<Pointer>,
}

/// An alert of another product is an envelope even without `data`: it has nothing to say to us, and refusing it would only
/// make Cloudflare send it again.
pub(super) fn is_envelope(fields: &Fields<'_>) -> bool {
    let has_data = fields.get("data").is_some_and(Value::is_object);
    let is_notification = ["ts", "alert_type", "policy_id", "name"]
        .into_iter()
        .any(|name| fields.has(name));
    (has_data && is_notification) || is_other_alert(fields)
}

pub(super) fn parse(
    fields: &Fields<'_>,
    document: &Value,
    pointers: &Pointers,
) -> Result<Content, PayloadError> {
    fields.text("alert_type")?;
    if is_other_alert(fields) {
        return Ok(Content::OtherAlert);
    }
    Ok(Content::Report(Report {
        cloudflare_id: cloudflare_id(document, &pointers.id)?,
        status: Some(status(document, pointers)?),
        reported_at: fields.unix_seconds("ts")?,
        details: ReportedDetails::default(),
    }))
}

fn is_other_alert(fields: &Fields<'_>) -> bool {
    fields
        .get("alert_type")
        .and_then(Value::as_str)
        .is_some_and(|alert_type| alert_type != IMAGES_ALERT)
}

fn cloudflare_id(document: &Value, pointers: &[Pointer]) -> Result<CloudflareId, PayloadError> {
    let Some((pointer, value)) = first_match(document, pointers) else {
        return Err(missing(pointers, "webhook.envelope.id_pointers"));
    };
    parse_id(Some(value)).map_err(|rule| PayloadError::Field {
        field: pointer.to_owned(),
        rule,
    })
}

fn status(document: &Value, pointers: &Pointers) -> Result<ReportedStatus, PayloadError> {
    let error = first_match(document, &pointers.error).map(|(_, value)| as_text(value));
    let Some((pointer, value)) = first_match(document, &pointers.status) else {
        let error =
            error.ok_or_else(|| missing(&pointers.status, "webhook.envelope.status_pointers"))?;
        return Ok(ReportedStatus::Failed { error });
    };
    let Some(word) = value.as_str() else {
        return Err(PayloadError::Field {
            field: pointer.to_owned(),
            rule: "must be text".to_owned(),
        });
    };
    // The words for success are published nowhere; these have been seen or are near at hand. Any other means that the image
    // is not there.
    Ok(match word.to_ascii_lowercase().as_str() {
        "success" | "uploaded" | "ready" => ReportedStatus::Uploaded { uploaded_at: None },
        "draft" | "pending" => ReportedStatus::Draft,
        _ => ReportedStatus::Failed {
            error: error
                .filter(|error| !error.is_empty())
                .unwrap_or_else(|| format!("Cloudflare reported the status \"{word}\"")),
        },
    })
}

fn first_match<'v, 'p>(
    document: &'v Value,
    pointers: &'p [Pointer],
) -> Option<(&'p str, &'v Value)> {
    let lookup = |pointer: &'p Pointer| {
        let value = pointer.find(document).filter(|value| !value.is_null())?;
        Some((pointer.as_str(), value))
    };
    pointers.iter().find_map(lookup)
}

/// The form of the error is not published: text is taken as it is, anything else as its JSON.
fn as_text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn missing(pointers: &[Pointer], setting: &str) -> PayloadError {
    let field = pointers.first().map_or("", Pointer::as_str).to_owned();
    PayloadError::Field {
        field,
        rule: format!("is not there, nor is anything at the other places of {setting}"),
    }
}
