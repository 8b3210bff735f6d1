//! The envelope: the shape that Cloudflare really sends. JSON pointers in the settings locate the image under `data`.

use serde_json::Value;

use super::error::PayloadError;
use super::field::{Fields, parse_id};
use super::ignored::IgnoredFields;
use super::json::{canonical, replace_nul};
use super::pointer::Pointer;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Report, ReportedStatus};

/// The alert type of Cloudflare Images, for success and for failure.
const IMAGES_ALERT: &str = "image_notification";

/// The JSON pointers into an envelope. In each list, the first pointer to a value other than null is used.
#[derive(Debug, Clone)]
pub struct Pointers {
    /// The pointers to the id of the image.
    pub id: Vec<Pointer>,
    /// The pointers to the result of the upload.
    pub status: Vec<Pointer>,
    /// The pointers to the error message.
    pub error: Vec<Pointer>,
    /// Whether the service can ask Cloudflare about an image. Then an unknown word for the result is refused here.
    pub can_look_up: bool,
}

/// Returns whether the body is an envelope. An alert of another Cloudflare product is an envelope even without `data`. The
/// service ignores such an alert, and does not refuse it: Cloudflare would send a refused alert again.
pub(super) fn is_envelope(fields: &Fields<'_>) -> bool {
    let has_data = fields.get("data").is_some_and(Value::is_object);
    let has_envelope_field = ["ts", "alert_type", "policy_id", "name"]
        .into_iter()
        .any(|name| fields.has(name));
    (has_data && has_envelope_field) || is_other_alert(fields)
}

pub(super) fn parse(
    fields: &Fields<'_>,
    document: &Value,
    pointers: &Pointers,
    ignored: &mut IgnoredFields,
) -> Result<Content, PayloadError> {
    fields.text("alert_type", ignored);
    if is_other_alert(fields) {
        return Ok(Content::OtherAlert);
    }
    Ok(Content::Report(Report {
        cloudflare_id: cloudflare_id(document, &pointers.id)?,
        status: Some(status(document, pointers)?),
        reported_at: fields.unix_seconds("ts", ignored),
        details: ReportedDetails::default(),
    }))
}

pub(super) fn is_other_alert(fields: &Fields<'_>) -> bool {
    fields
        .get("alert_type")
        .and_then(Value::as_str)
        // A type that cannot be read says nothing about the product.
        .is_some_and(|alert_type| alert_type != IMAGES_ALERT && !alert_type.contains('\0'))
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
    let Some(word) = value.as_str().filter(|word| !word.contains('\0')) else {
        return Err(PayloadError::Field {
            field: pointer.to_owned(),
            rule: "must be a string of valid Unicode without U+0000".to_owned(),
        });
    };
    // Cloudflare does not publish the words. These words were observed or are likely. Any other word means that the upload failed,
    // unless the service can ask Cloudflare.
    Ok(match word.to_ascii_lowercase().as_str() {
        "success" | "uploaded" | "ready" => ReportedStatus::Uploaded { uploaded_at: None },
        "draft" | "pending" => ReportedStatus::Draft,
        "failed" | "failure" | "error" => ReportedStatus::Failed {
            error: failure(error, word),
        },
        _ if pointers.can_look_up && error.as_deref().unwrap_or_default().is_empty() => {
            return Err(PayloadError::Field {
                field: pointer.to_owned(),
                rule: "has an unknown word".to_owned(),
            });
        }
        _ => ReportedStatus::Failed {
            error: failure(error, word),
        },
    })
}

fn failure(error: Option<String>, word: &str) -> String {
    error
        .filter(|error| !error.is_empty())
        .unwrap_or_else(|| format!("Cloudflare reported the status \"{word}\""))
}

/// Returns the image that an envelope names, even if the envelope does not say what became of it.
pub(super) fn named_image(document: &Value, pointers: &Pointers) -> Option<CloudflareId> {
    cloudflare_id(document, &pointers.id).ok()
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

/// Returns the error message as text without U+0000. Cloudflare does not publish its type, so any value other than a string is
/// returned as JSON.
pub(super) fn as_text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => replace_nul(text),
        None => canonical(value).without_nul().into_owned(),
    }
}

fn missing(pointers: &[Pointer], setting: &str) -> PayloadError {
    let field = pointers.first().map_or("", Pointer::as_str).to_owned();
    PayloadError::Field {
        field,
        rule: format!(
            "is missing, and no other pointer in {setting} matches. Add a pointer that fits this body"
        ),
    }
}
