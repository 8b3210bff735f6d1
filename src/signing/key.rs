//! The keys of a secret, one for each way to use it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::scheme::Scheme;

/// The error of a secret that has the prefix of Standard Webhooks but is not valid there. Its text follows the name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have the base64 of 24 to 64 bytes after the prefix whsec_")]
pub struct InvalidSecret;

/// The keys of one secret. They are computed once.
pub(super) struct Key {
    /// An HMAC with the text of the secret as its key.
    pub(super) plain: Hmac<Sha256>,
    /// An HMAC with the key of Standard Webhooks: the decoded base64 after `whsec_`, or the text of a secret without that prefix.
    pub(super) standard: Hmac<Sha256>,
    /// The digest of the secret under `plain`. Comparing digests does not reveal the length of the secret.
    pub(super) secret_digest: Digest,
}

pub(super) type Digest = [u8; 32];

impl Key {
    pub(super) fn new(secret: &SecretString, schemes: &[Scheme]) -> Result<Self, InvalidSecret> {
        let secret = secret.expose_secret();
        let plain = hmac_with_key(secret.as_bytes());
        let standard = match secret.strip_prefix(SECRET_PREFIX) {
            Some(encoded) if schemes.contains(&Scheme::Standard) => {
                hmac_with_key(&decode_secret(encoded)?)
            }
            Some(_) | None => plain.clone(),
        };
        let secret_digest = digest(&plain, &[secret.as_bytes()]);
        Ok(Self {
            plain,
            standard,
            secret_digest,
        })
    }
}

pub(super) fn hmac_with_key(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// Returns the HMAC of the concatenated parts.
pub(super) fn digest(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Digest {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The prefix of a Standard Webhooks secret (specification, "Signature scheme").
pub(super) const SECRET_PREFIX: &str = "whsec_";

/// The length of a decoded secret in bytes (the same section: "between 24 bytes (192 bits) and 64 bytes (512 bits)").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub(super) fn decode_secret(encoded: &str) -> Result<Vec<u8>, InvalidSecret> {
    let secret = STANDARD
        .decode(encoded.trim_end())
        .map_err(|_| InvalidSecret)?;
    if SECRET_BYTES.contains(&secret.len()) {
        Ok(secret)
    } else {
        Err(InvalidSecret)
    }
}
