//! Parses the body of an authenticated request into the content of a notification.
//!
//! A body has one of four shapes: a test message, an envelope, an event or a flat report. The fields that identify the image and
//! its status must follow rules. A detail that breaks a rule is ignored, and so is an unknown field. A field with `null` counts
//! as absent.

mod envelope;
mod error;
mod event;
mod field;
mod flat;
mod ignored;
mod json;
mod pointer;
mod repair;

use serde_json::{Map, Value};

use crate::domain::detail::ReportedDetails;
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS};
use crate::domain::notification::Content;
use field::Fields;
use json::ParsedBody;

pub use envelope::Pointers;
pub(crate) use error::PayloadError;
pub use ignored::IgnoredFields;
pub(crate) use json::canonical_json;
pub use pointer::Pointer;

/// A parsed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The content.
    pub content: Content,
    /// The body in canonical form.
    pub payload: Json,
    /// The fields that break a rule and were ignored.
    pub ignored: IgnoredFields,
}

impl Parsed {
    /// Writes one log line about the ignored fields: their names and rules, never their values.
    pub(super) fn log_ignored(&self) {
        let image = match &self.content {
            Content::Report(report) => report.cloudflare_id.as_str(),
            Content::TestMessage | Content::OtherAlert | Content::Invalid(_) => "",
        };
        tracing::warn!(
            image,
            fields = %self.ignored,
            "ignored fields of a notification that break a rule"
        );
    }
}

/// Parses a body. Fails with the field and the rule that it breaks.
pub fn parse(body: &[u8], pointers: &Pointers) -> Result<Parsed, PayloadError> {
    if body.is_empty() {
        return Err(PayloadError::Empty);
    }
    let ParsedBody { value, is_repaired } = json::parse(body)?;
    let Value::Object(object) = &value else {
        return Err(PayloadError::NotAnObject);
    };
    let mut ignored = IgnoredFields::default();
    if is_repaired {
        ignored.add(
            "the body",
            "must have valid Unicode, and numbers in the range of a double",
        );
    }
    let content = content(object, &value, pointers, &mut ignored)?;
    Ok(Parsed {
        content,
        payload: json::canonical(&value),
        ignored,
    })
}

/// Cloudflare's description of an image, as its API returns it.
#[derive(Debug, Clone)]
pub(crate) struct ImageDescription {
    /// The details. A detail that breaks its rule is left out.
    pub(crate) details: ReportedDetails,
    /// The description in canonical form.
    pub(crate) payload: Json,
}

/// Parses Cloudflare's description of an image by the rules for webhooks. Fails if it has too many levels.
pub(crate) fn parse_description(
    object: Map<String, Value>,
) -> Result<ImageDescription, PayloadError> {
    let mut value = Value::Object(object);
    json::normalize(&mut value, MAX_ACCEPTED_LEVELS)?;
    let details = match &value {
        Value::Object(object) => Fields::new(object).details(&mut IgnoredFields::default()),
        _ => ReportedDetails::default(),
    };
    Ok(ImageDescription {
        details,
        payload: json::canonical(&value),
    })
}

fn content(
    object: &Map<String, Value>,
    document: &Value,
    pointers: &Pointers,
    ignored: &mut IgnoredFields,
) -> Result<Content, PayloadError> {
    let fields = Fields::new(object);
    if is_test_message(object) {
        Ok(Content::TestMessage)
    } else if envelope::is_envelope(&fields) {
        envelope::parse(&fields, document, pointers, ignored)
    } else if fields.has("event") {
        event::parse(&fields, ignored).map(Content::Report)
    } else if flat::is_flat(&fields) {
        flat::parse(&fields, ignored).map(Content::Report)
    } else {
        Err(PayloadError::UnknownShape {
            flat_fields: flat::report_field_list(),
        })
    }
}

/// Returns whether this is the message of Cloudflare's "Save and Test". Its wording varies, but `text` is always its only key.
fn is_test_message(object: &Map<String, Value>) -> bool {
    let is_text = |value: &Value| value.is_string() && !repair::is_marked_number(value);
    object.len() == 1 && object.get("text").is_some_and(is_text)
}

#[cfg(test)]
mod tests;
