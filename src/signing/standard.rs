//! Scheme `standard`: Standard Webhooks, specification 1.0.
//!
//! A signature is `v1,` and the base64 HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`. `webhook-signature` has one
//! signature for each key of the sender, separated by spaces.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use sha2::Sha256;
use subtle::Choice;

use super::header_values::{
    any_match, contains_digest, parse_unix_seconds, single_value, text_values,
};
use super::key::{Digest, Key, digest};
use super::message::Message;
use crate::domain::timestamp::Timestamp;

pub(super) const ID: HeaderName = HeaderName::from_static("webhook-id");
pub(super) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

pub(super) fn verify(
    keys: &[Key],
    headers: &HeaderMap,
    body: &[u8],
    is_recent: impl Fn(Timestamp) -> bool,
) -> Choice {
    let (Some(id), Some(timestamp)) = (
        single_value(headers, &ID),
        single_value(headers, &TIMESTAMP),
    ) else {
        return Choice::from(0);
    };
    let claimed: Vec<Digest> = text_values(headers, &SIGNATURE)
        .flat_map(str::split_ascii_whitespace)
        .filter_map(parse_signature)
        .collect();

    let has_recent_timestamp = parse_unix_seconds(timestamp).is_some_and(is_recent);
    if claimed.is_empty() || !has_recent_timestamp {
        return Choice::from(0);
    }
    any_match(
        keys.iter()
            .flat_map(Key::standard_keys)
            .map(|key| contains_digest(&claimed, &signature(key, id, timestamp, body))),
    )
}

pub(super) fn sign(keys: &[Key], message: &Message<'_>) -> [(HeaderName, String); 3] {
    let timestamp = message.sent_at.unix_seconds().to_string();
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| signature(&key.standard, message.id, &timestamp, message.body))
        .map(|signature| format!("v1,{}", STANDARD.encode(signature)))
        .collect();
    [
        (ID, message.id.to_owned()),
        (TIMESTAMP, timestamp),
        (SIGNATURE, signatures.join(" ")),
    ]
}

fn signature(key: &Hmac<Sha256>, id: &str, timestamp: &str, body: &[u8]) -> Digest {
    digest(
        key,
        &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body],
    )
}

pub(super) fn parse_signature(text: &str) -> Option<Digest> {
    STANDARD
        .decode(text.strip_prefix("v1,")?)
        .ok()?
        .try_into()
        .ok()
}
