//! Hints: what a notification says about its image although it cannot be read.
//!
//! Cloudflare does not publish the form of its notifications about images. So the texts in a notification are compared with the ids of
//! the images that wait for their upload.

use serde_json::{Map, Value};

use super::envelope::{self, Pointers};
use super::field::Fields;
use super::test_message::is_text_alone;
use crate::domain::id::CloudflareId;
use crate::domain::notification::HintedImage;

/// The most texts of a notification that are compared with ids.
const MAX_CANDIDATES: usize = 64;

/// The characters around a word that do not belong to an id.
const PUNCTUATION: &[char] = &[
    '"', '\'', '`', '“', '”', '(', ')', '[', ']', '{', '}', '<', '>', ',', ';', ':', '.', '!', '?',
];

/// Returns what a notification about an image says about it. `None` if it is no such notification, or says nothing.
pub(super) fn find(
    object: &Map<String, Value>,
    document: &Value,
    pointers: &Pointers,
) -> Option<HintedImage> {
    let fields = Fields::new(object);
    let is_envelope = envelope::is_envelope(&fields) && !envelope::is_other_alert(&fields);
    if !is_envelope && !is_text_alone(object) {
        return None;
    }
    if let Some(id) = envelope::named_image(document, pointers).filter(|_| is_envelope) {
        return Some(HintedImage::Named(id));
    }
    let mut candidates = Vec::new();
    if let Some(data) = object.get("data") {
        add_strings(data, &mut candidates);
    }
    let text = object.get("text").and_then(Value::as_str);
    for word in text.unwrap_or_default().split_whitespace() {
        add(word, &mut candidates);
        add(word.trim_matches(PUNCTUATION), &mut candidates);
    }
    (!candidates.is_empty()).then_some(HintedImage::Candidates(candidates))
}

/// Adds every string in a value.
fn add_strings(value: &Value, candidates: &mut Vec<CloudflareId>) {
    match value {
        Value::String(text) => add(text, candidates),
        Value::Array(values) => {
            for value in values {
                add_strings(value, candidates);
            }
        }
        Value::Object(fields) => {
            for value in fields.values() {
                add_strings(value, candidates);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn add(text: &str, candidates: &mut Vec<CloudflareId>) {
    if candidates.len() >= MAX_CANDIDATES {
        return;
    }
    let id = CloudflareId::parse(text)
        .ok()
        .filter(CloudflareId::fits_index);
    candidates.extend(id.filter(|id| !candidates.contains(id)));
}
