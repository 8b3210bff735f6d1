//! Normalizes JSON, so both databases store the same text.

use serde_json::{Number, Value};

use super::error::PayloadError;
use super::repair::repair;
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS, is_deeper_than};

/// The character that replaces U+0000 in stored text. Unicode has it for characters that cannot be represented.
const REPLACEMENT: &str = "\u{fffd}";

/// A parsed body.
pub(super) struct ParsedBody {
    pub(super) value: Value,
    /// Whether the body was repaired, so some values have a mark (see [`repair`](super::repair)).
    pub(super) is_repaired: bool,
}

/// Parses a body, and normalizes it: numbers get the form in which Postgres's `jsonb` stores them. Repairs the body if a strict
/// parser refuses it. Fails on more than [`MAX_ACCEPTED_LEVELS`] levels.
pub(super) fn parse(body: &[u8]) -> Result<ParsedBody, PayloadError> {
    let mut parsed = match serde_json::from_slice(body) {
        Ok(value) => ParsedBody {
            value,
            is_repaired: false,
        },
        Err(error) => parse_repaired(body, error)?,
    };
    normalize(&mut parsed.value, MAX_ACCEPTED_LEVELS)?;
    Ok(parsed)
}

/// Parses a body that a strict parser refused with this error.
fn parse_repaired(body: &[u8], error: serde_json::Error) -> Result<ParsedBody, PayloadError> {
    // The parser itself stops at 128 levels.
    if is_deeper_than(body, MAX_ACCEPTED_LEVELS) {
        return Err(PayloadError::TooDeep);
    }
    let Some(repaired) = repair(body) else {
        return Err(PayloadError::NotJson(error));
    };
    let value = serde_json::from_slice(&repaired).map_err(PayloadError::NotJson)?;
    Ok(ParsedBody {
        value,
        is_repaired: true,
    })
}

/// Returns JSON of another source in the canonical form of payloads.
pub(crate) fn canonical_json(text: &str) -> Result<Json, serde_json::Error> {
    let mut value: Value = serde_json::from_str(text)?;
    // The caller has checked the number of levels, so this normalizes all numbers.
    let _is_too_deep = normalize(&mut value, MAX_ACCEPTED_LEVELS);
    Ok(canonical(&value))
}

/// Normalizes a value with at most this number of levels.
pub(super) fn normalize(value: &mut Value, levels: usize) -> Result<(), PayloadError> {
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

/// Replaces U+0000 in a text.
pub(super) fn replace_nul(text: &str) -> String {
    text.replace('\0', REPLACEMENT)
}

/// Returns whether a string or a key contains U+0000.
pub(super) fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(contains_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || contains_nul(value)),
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
