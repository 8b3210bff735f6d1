//! The credentials in the headers of a request: parsing them, and comparing them in constant time.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::key::Digest;
use crate::domain::timestamp::Timestamp;

/// Returns whether any of the comparisons is a match. Evaluates all of them, so the duration does not depend on the results.
pub(super) fn any_match(matches: impl Iterator<Item = Choice>) -> Choice {
    matches.fold(Choice::from(0), |any, next| any | next)
}

/// Returns the position of the first match, or [`usize::MAX`] without one. Evaluates all comparisons, and chooses without a branch,
/// so the duration does not depend on the results.
pub(super) fn first_match(matches: impl Iterator<Item = Choice>) -> usize {
    let (first, _) = matches.enumerate().fold(
        (u64::MAX, Choice::from(0)),
        |(first, is_found), (position, is_match)| {
            let position = u64::try_from(position).unwrap_or(u64::MAX);
            let first = u64::conditional_select(&first, &position, is_match & !is_found);
            (first, is_found | is_match)
        },
    );
    usize::try_from(first).unwrap_or(usize::MAX)
}

/// Returns whether any of the claimed digests is the expected one.
pub(super) fn contains_digest(claimed: &[Digest], expected: &Digest) -> Choice {
    any_match(claimed.iter().map(|claimed| claimed.ct_eq(expected)))
}

/// Parses a hexadecimal digest, in upper or lower case, with or without the prefix `sha256=`.
pub(super) fn parse_hex_digest(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    hex::decode_to_slice(text.strip_prefix("sha256=").unwrap_or(text), &mut digest).ok()?;
    Some(digest)
}

/// Returns the values of a header that are text.
pub(super) fn text_values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// Returns the value of a header that occurs exactly once. A repeated header is ambiguous. Hashing the body once for each
/// value would also let any client cause much work with one request.
pub(super) fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Parses a Unix timestamp in whole seconds. It consists of digits only.
pub(super) fn parse_unix_seconds(text: &str) -> Option<Timestamp> {
    let has_only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    Timestamp::from_unix_seconds(text.parse().ok().filter(|_| has_only_digits)?).ok()
}
