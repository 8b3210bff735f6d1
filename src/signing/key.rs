//! A secret, prepared for each scheme.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::scheme::Scheme;

/// A secret that looks like a Standard Webhooks secret and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has a secret that begins with whsec_, so the rest must be base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

/// A secret, made ready for each scheme once.
pub(super) struct Key {
    /// Keyed with the secret's own bytes.
    pub(super) plain: Hmac<Sha256>,
    /// Keyed as Standard Webhooks says: with what the base64 after `whsec_` means.
    pub(super) standard: Hmac<Sha256>,
    /// The secret's digest under `plain`, to compare a presented secret with without showing its length.
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

/// The HMAC of the parts, one after another.
pub(super) fn digest(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Digest {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What a secret of Standard Webhooks begins with ("Signature scheme").
pub(super) const SECRET_PREFIX: &str = "whsec_";

/// The length of a secret in bytes ("between 24 bytes (192 bits) and 64 bytes (512 bits)").
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
