//! Signatures, written from the documentation and without the service's code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The current secret.
pub(crate) const SECRET: &str = "a secret of the tests, 32 letters";

/// The previous secret.
pub(crate) const PREVIOUS_SECRET: &str = "the secret before";

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Returns the hexadecimal HMAC-SHA256 of the body.
pub(crate) fn hex_hmac(secret: &str, body: &[u8]) -> String {
    hex::encode(mac(secret.as_bytes(), body))
}

/// Returns the `X-Webhook-Signature` of `{timestamp}.{body}`.
pub(crate) fn timestamped(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let message = [timestamp.to_string().as_bytes(), b".", body].concat();
    format!("sha256={}", hex::encode(mac(secret.as_bytes(), &message)))
}

/// Returns the `webhook-signature` of `{id}.{timestamp}.{body}` for a secret with the prefix
/// `whsec_`.
pub(crate) fn standard(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> String {
    let key = STANDARD
        .decode(
            secret
                .strip_prefix("whsec_")
                .expect("a secret of Standard Webhooks"),
        )
        .expect("base64");
    let message = [
        id.as_bytes(),
        b".",
        timestamp.to_string().as_bytes(),
        b".",
        body,
    ]
    .concat();
    format!("v1,{}", STANDARD.encode(mac(&key, &message)))
}
