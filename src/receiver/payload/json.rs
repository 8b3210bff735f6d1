//! Normalizes JSON, so both databases store the same text.

use serde_json::{Map, Number, Value};

use super::error::PayloadError;
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS, is_deeper_than};

/// The maximum length of a field name that an error repeats.
const MAX_NAME_LENGTH: usize = 64;

/// Parses a body, and normalizes it: numbers get the form in which Postgres's `jsonb` stores them. Fails on U+0000 in a string or
/// key, and on more than [`MAX_ACCEPTED_LEVELS`] levels.
pub(super) fn parse(body: &[u8]) -> Result<Value, PayloadError> {
    let mut value = serde_json::from_slice(body).map_err(|error| {
        // The parser itself stops at 128 levels.
        if is_deeper_than(body, MAX_ACCEPTED_LEVELS) {
            PayloadError::TooDeep
        } else {
            PayloadError::NotJson(error)
        }
    })?;
    normalize(&mut value)?;
    Ok(value)
}

fn normalize(value: &mut Value) -> Result<(), PayloadError> {
    match value {
        Value::Object(fields) if contains_nul_key(fields) => Err(PayloadError::Nul { field: None }),
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, value)| {
            normalize_value(value, Some(name), MAX_ACCEPTED_LEVELS - 1)
        }),
        other => normalize_value(other, None, MAX_ACCEPTED_LEVELS),
    }
}

/// Normalizes a value with at most this number of levels.
fn normalize_value(
    value: &mut Value,
    field: Option<&str>,
    levels: usize,
) -> Result<(), PayloadError> {
    let nul = || PayloadError::Nul {
        field: field.filter(|name| is_plain_name(name)).map(str::to_owned),
    };
    match value {
        Value::Object(_) | Value::Array(_) if levels == 0 => Err(PayloadError::TooDeep),
        Value::String(text) if text.contains('\0') => Err(nul()),
        Value::Object(fields) if contains_nul_key(fields) => Err(nul()),
        Value::Object(fields) => fields
            .values_mut()
            .try_for_each(|value| normalize_value(value, field, levels - 1)),
        Value::Array(values) => values
            .iter_mut()
            .try_for_each(|value| normalize_value(value, field, levels - 1)),
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

fn is_plain_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LENGTH
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
