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
mod hint;
mod ignored;
mod json;
mod pointer;
mod repair;
mod test_message;

use serde_json::{Map, Value};

use crate::domain::detail::ReportedDetails;
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS};
use crate::domain::notification::{Content, Hint, HintedImage, InvalidBody};
use field::Fields;
use json::ParsedBody;
use test_message::{is_test_message, is_text_alone};

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
    } else if is_text_alone(object) {
        Err(PayloadError::Field {
            field: "text".to_owned(),
            rule: "is the only field, and is not Cloudflare's test message".to_owned(),
        })
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

/// A body, whether it can be read or not.
#[derive(Debug)]
pub(super) struct Interpreted {
    pub(super) content: Content,
    /// The body in canonical form; an empty object if it cannot be read.
    pub(super) payload: Json,
    pub(super) ignored: IgnoredFields,
    /// The reason why the body cannot be read. The content is then a hint or invalid.
    pub(super) error: Option<PayloadError>,
    /// Whether the body would be a hint if the service could ask Cloudflare.
    pub(super) lacks_account: bool,
}

impl Interpreted {
    /// Writes one log line about the ignored fields: their names and rules, never their values.
    pub(super) fn log_ignored(&self) {
        let image = match &self.content {
            Content::Report(report) => report.cloudflare_id.as_str(),
            Content::TestMessage | Content::OtherAlert | Content::Hint(_) | Content::Invalid(_) => {
                ""
            }
        };
        tracing::warn!(
            image,
            fields = %self.ignored,
            "ignored fields of a notification that break a rule"
        );
    }
}

/// Parses a body. If it cannot be read, finds out what it says about its image, provided that the service can ask Cloudflare.
pub(super) fn interpret(body: &[u8], pointers: &Pointers) -> Interpreted {
    let error = match parse(body, pointers) {
        Ok(parsed) => {
            return Interpreted {
                content: parsed.content,
                payload: parsed.payload,
                ignored: parsed.ignored,
                error: None,
                lacks_account: false,
            };
        }
        Err(error) => error,
    };
    let invalid = InvalidBody {
        body: body.into(),
        problem: error.to_string(),
    };
    let hint = hint(body, pointers);
    let lacks_account = hint.is_some() && !pointers.can_look_up;
    let (content, payload) = match hint {
        Some((image, payload)) if !lacks_account => {
            (Content::Hint(Hint { image, invalid }), payload)
        }
        Some(_) | None => (Content::Invalid(invalid), Json::empty_object()),
    };
    Interpreted {
        content,
        payload,
        ignored: IgnoredFields::default(),
        error: Some(error),
        lacks_account,
    }
}

fn hint(body: &[u8], pointers: &Pointers) -> Option<(HintedImage, Json)> {
    let value = json::parse(body).ok()?.value;
    let image = hint::find(value.as_object()?, &value, pointers)?;
    Some((image, json::canonical(&value)))
}

#[cfg(test)]
mod tests;
