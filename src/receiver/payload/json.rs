//! Normalizes JSON, so both databases store the same text.

use serde_json::{Map, Number, Value};

use super::error::PayloadError;
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS, is_deeper_than};

/// The character that replaces U+0000 in stored text. Unicode has it for characters that cannot be represented.
const REPLACEMENT: &str = "\u{fffd}";

/// Parses a body, and normalizes it: numbers get the form in which Postgres's `jsonb` stores them. Fails on more than
/// [`MAX_ACCEPTED_LEVELS`] levels.
pub(super) fn parse(body: &[u8]) -> Result<Value, PayloadError> {
    let mut value = serde_json::from_slice(body).map_err(|error| {
        // The parser itself stops at 128 levels.
        if is_deeper_than(body, MAX_ACCEPTED_LEVELS) {
            PayloadError::TooDeep
        } else {
            PayloadError::NotJson(error)
        }
    })?;
    normalize(&mut value, MAX_ACCEPTED_LEVELS)?;
    Ok(value)
}

/// Normalizes a value with at most this number of levels.
fn normalize(value: &mut Value, levels: usize) -> Result<(), PayloadError> {
    match value {
        Value::Object(_) | Value::Array(_) if levels == 0 => Err(PayloadError::TooDeep),
        Value::Object(fields) => fields
            .values_mut()
            .try_for_each(|value| normalize(value, levels - 1)),
        Value::Array(values) => values
            .iter_mut()
            .try_for_each(|value| normalize(value, levels - 1)),
        Value::Number(number) => {
            if let Some(stored) = number
                .as_f64()
                .filter(|_| number.is_f64())
                .and_then(jsonb_number)
            {
                *number = stored;
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

/// Returns the canonical text of a normalized body. A U+0000 becomes U+FFFD, because Postgres cannot store it.
pub(super) fn canonical_body(value: &mut Value) -> Json {
    let text = canonical(value);
    // An escaped backslash before `u0000` matches too. The replacement then changes nothing.
    if !text.as_str().contains("\\u0000") {
        return text;
    }
    replace_nul_in(value);
    canonical(value)
}

/// Replaces U+0000 in a text.
pub(super) fn replace_nul(text: &str) -> String {
    text.replace('\0', REPLACEMENT)
}

fn replace_nul_in(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = replace_nul(text),
        Value::Array(values) => values.iter_mut().for_each(replace_nul_in),
        Value::Object(fields) => {
            fields.values_mut().for_each(replace_nul_in);
            if contains_nul_key(fields) {
                let renamed = std::mem::take(fields).into_iter();
                *fields = renamed
                    .map(|(name, value)| (replace_nul(&name), value))
                    .collect();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns whether a string or a key contains U+0000.
pub(super) fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(contains_nul),
        Value::Object(fields) => contains_nul_key(fields) || fields.values().any(contains_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns the number as `jsonb` stores it, or `None` if `jsonb` does not change it.
///
/// `jsonb` has no negative zero. It writes a large whole number without an exponent, so the number is read back as an integer.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the ranges are checked, and the numbers are whole"
)]
fn jsonb_number(number: f64) -> Option<Number> {
    // `serde_json` writes an exponent from this number on.
    const MIN_WITH_EXPONENT: f64 = 1e16;
    const U64_END: f64 = 18_446_744_073_709_551_616.0;
    const I64_START: f64 = -9_223_372_036_854_775_808.0;

    if number == 0.0 {
        Number::from_f64(0.0)
    } else if (MIN_WITH_EXPONENT..U64_END).contains(&number) {
        Some(Number::from(number as u64))
    } else if (I64_START..=-MIN_WITH_EXPONENT).contains(&number) {
        Some(Number::from(number as i64))
    } else {
        None
    }
}

/// Returns the canonical text of a normalized value. `serde_json` sorts the keys and writes no white space.
pub(super) fn canonical(value: &Value) -> Json {
    // `Value::to_string` is slower: it writes each part through a formatter.
    Json::from_canonical(serde_json::to_string(value).expect("a value is JSON"))
}

fn contains_nul_key(fields: &Map<String, Value>) -> bool {
    fields.keys().any(|key| key.contains('\0'))
}
