//! Scheme `hmac`: `X-Signature` or `X-Cloudflare-Signature` carries the hexadecimal HMAC-SHA256 of the raw body.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use subtle::Choice;

use super::header_values::{any_match, contains_digest, parse_hex_digest, text_values};
use super::key::{Digest, Key, digest};

pub(super) const HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-signature"),
    HeaderName::from_static("x-cloudflare-signature"),
];

pub(super) fn verify(keys: &[Key], headers: &HeaderMap, body: &[u8]) -> Choice {
    let claimed: Vec<Digest> = HEADERS
        .iter()
        .flat_map(|header| text_values(headers, header))
        .filter_map(parse_hex_digest)
        .collect();
    if claimed.is_empty() {
        return Choice::from(0);
    }
    any_match(
        keys.iter()
            .map(|key| contains_digest(&claimed, &digest(&key.plain, &[body]))),
    )
}

pub(super) fn sign(key: &Key, body: &[u8]) -> (HeaderName, String) {
    let [header, _] = HEADERS;
    (header, hex::encode(digest(&key.plain, &[body])))
}
