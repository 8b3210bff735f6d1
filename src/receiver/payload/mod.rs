//! Parses the body of an authenticated request into the content of a notification.
//!
//! A body has one of four shapes: a test message, an envelope, an event or a flat report. Its fields must follow rules.
//! Unknown fields are ignored. A field with `null` counts as absent.

mod envelope;
mod error;
mod event;
mod field;
mod flat;
mod json;
mod pointer;

use serde_json::{Map, Value};

use crate::domain::json::Json;
use crate::domain::notification::Content;
use field::Fields;

pub use envelope::Pointers;
pub(crate) use error::PayloadError;
pub use pointer::Pointer;

/// Returns the content of a body and its JSON in canonical form. Fails with the field and the rule that it breaks.
pub fn parse(body: &[u8], pointers: &Pointers) -> Result<(Content, Json), PayloadError> {
    if body.is_empty() {
        return Err(PayloadError::Empty);
    }
    let value = json::parse(body)?;
    let payload = json::canonical(&value);
    let Value::Object(object) = &value else {
        return Err(PayloadError::NotAnObject);
    };

    Ok((content(object, &value, pointers)?, payload))
}

fn content(
    object: &Map<String, Value>,
    document: &Value,
    pointers: &Pointers,
) -> Result<Content, PayloadError> {
    let fields = Fields::new(object);
    if is_test_message(object) {
        Ok(Content::TestMessage)
    } else if envelope::is_envelope(&fields) {
        envelope::parse(&fields, document, pointers)
    } else if fields.has("event") {
        event::parse(&fields).map(Content::Report)
    } else if flat::is_flat(&fields) {
        flat::parse(&fields).map(Content::Report)
    } else {
        Err(PayloadError::UnknownShape {
            flat_fields: flat::report_field_list(),
        })
    }
}

/// Returns whether this is the message of Cloudflare's "Save and Test". Its wording varies, but `text` is always its only key.
fn is_test_message(object: &Map<String, Value>) -> bool {
    object.len() == 1 && object.get("text").is_some_and(Value::is_string)
}

#[cfg(test)]
mod tests;
