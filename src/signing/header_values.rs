//! The credentials that a request claims, read from its headers and compared in constant time.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use subtle::{Choice, ConstantTimeEq};

use super::key::Digest;
use crate::domain::timestamp::Timestamp;

/// Whether any of them holds; all of them are asked.
pub(super) fn any_match(matches: impl Iterator<Item = Choice>) -> Choice {
    matches.fold(Choice::from(0), |any, next| any | next)
}

/// Whether any of the claimed digests is the right one.
pub(super) fn contains_digest(claimed: &[Digest], expected: &Digest) -> Choice {
    any_match(claimed.iter().map(|claimed| claimed.ct_eq(expected)))
}

/// A digest written in hexadecimal, in any case, with or without `sha256=` before it.
pub(super) fn parse_hex_digest(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    hex::decode_to_slice(text.strip_prefix("sha256=").unwrap_or(text), &mut digest).ok()?;
    Some(digest)
}

/// The values of a header that are text.
pub(super) fn text_values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// The value of a header that is there once. One that is there twice has no one meaning, and hashing the body for each would
/// let a stranger make us work.
pub(super) fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whole seconds since 1970, in digits alone.
pub(super) fn parse_unix_seconds(text: &str) -> Option<Timestamp> {
    let has_only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    Timestamp::from_unix_seconds(text.parse().ok().filter(|_| has_only_digits)?).ok()
}
