//! Scheme `cf-webhook-auth`: the header carries the secret itself (Cloudflare, "Configure webhooks").

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

use super::header_values::any_match;
use super::key::{Key, digest};

pub(super) const HEADER: HeaderName = HeaderName::from_static("cf-webhook-auth");

/// Verifies the secret in the header. Compares digests, so the duration does not reveal the length of the secret.
pub(super) fn verify(keys: &[Key], headers: &HeaderMap) -> Choice {
    let presented = headers.get_all(HEADER).iter();
    any_match(presented.flat_map(|presented| {
        keys.iter()
            .map(move |key| digest(&key.plain, &[presented.as_bytes()]).ct_eq(&key.secret_digest))
    }))
}

pub(super) fn sign(secret: &SecretString) -> (HeaderName, String) {
    (HEADER, secret.expose_secret().to_owned())
}
