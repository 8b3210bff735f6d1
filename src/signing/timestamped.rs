//! Scheme `timestamped`: an HMAC of a timestamp and the body.
//!
//! `X-Webhook-Signature` is `sha256=` and the hexadecimal HMAC-SHA256 of `{timestamp}.{body}`. `X-Webhook-Timestamp` is the
//! timestamp in Unix seconds.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use subtle::Choice;

use super::header_values::{
    any_match, contains_digest, parse_hex_digest, parse_unix_seconds, single_value, text_values,
};
use super::key::{Digest, Key, digest};
use super::message::Message;
use crate::domain::timestamp::Timestamp;

pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
pub(super) const TIMESTAMP: HeaderName = HeaderName::from_static("x-webhook-timestamp");

pub(super) fn verify(
    keys: &[Key],
    headers: &HeaderMap,
    body: &[u8],
    is_recent: impl Fn(Timestamp) -> bool,
) -> Choice {
    let claimed: Vec<Digest> = text_values(headers, &SIGNATURE)
        .filter_map(parse_hex_digest)
        .collect();
    let Some(timestamp) = single_value(headers, &TIMESTAMP) else {
        return Choice::from(0);
    };

    let has_recent_timestamp = parse_unix_seconds(timestamp).is_some_and(is_recent);
    if claimed.is_empty() || !has_recent_timestamp {
        return Choice::from(0);
    }
    any_match(
        keys.iter()
            .map(|key| contains_digest(&claimed, &signature(key, timestamp, body))),
    )
}

/// Signs a message with one key, because a receiver expects one signature.
pub(super) fn sign(key: &Key, message: &Message<'_>) -> [(HeaderName, String); 2] {
    let timestamp = message.sent_at.unix_seconds().to_string();
    let signature = format!(
        "sha256={}",
        hex::encode(signature(key, &timestamp, message.body))
    );
    [(TIMESTAMP, timestamp), (SIGNATURE, signature)]
}

fn signature(key: &Key, timestamp: &str, body: &[u8]) -> Digest {
    digest(&key.plain, &[timestamp.as_bytes(), b".", body])
}
