//! `hmac`: `X-Signature` or `X-Cloudflare-Signature` carries the hexadecimal HMAC-SHA256 of the raw body.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use subtle::Choice;

use super::claims::{any_holds, is_among, parse_hex, texts};
use super::key::{Digest, Key, digest};

pub(super) const HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-signature"),
    HeaderName::from_static("x-cloudflare-signature"),
];

pub(super) fn holds(keys: &[Key], headers: &HeaderMap, body: &[u8]) -> Choice {
    let claimed: Vec<Digest> = HEADERS
        .iter()
        .flat_map(|header| texts(headers, header))
        .filter_map(parse_hex)
        .collect();
    if claimed.is_empty() {
        return Choice::from(0);
    }
    any_holds(
        keys.iter()
            .map(|key| is_among(&claimed, &digest(&key.plain, &[body]))),
    )
}

pub(super) fn prove(key: &Key, body: &[u8]) -> (HeaderName, String) {
    let [header, _] = HEADERS;
    (header, hex::encode(digest(&key.plain, &[body])))
}
