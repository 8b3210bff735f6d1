//! The keys of a secret, one for each way to use it.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::scheme::Scheme;

/// The error of a secret that has the prefix of Standard Webhooks but is not valid there. Its text follows the name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// There is no key.
    #[error("has a secret without base64 after whsec_. Copy the whole secret.")]
    Empty,
    /// The text is base64 for URLs. The reference libraries refuse it or read another key.
    #[error(
        "has a secret with the base64 of URLs after whsec_. Write + instead of -, and / instead of _."
    )]
    UrlAlphabet,
    /// The text has another character.
    #[error(
        "has a secret with a character after whsec_ that is not base64. Use letters, digits, + and /."
    )]
    Alphabet,
    /// The text has an impossible length, or padding within it.
    #[error("has a secret with incomplete base64 after whsec_. Copy the whole secret.")]
    Incomplete,
}

/// The keys of one secret. They are computed once.
pub(super) struct Key {
    /// An HMAC with the text of the secret as its key.
    pub(super) plain: Hmac<Sha256>,
    /// An HMAC with the key of Standard Webhooks: the decoded base64 after `whsec_`, or the text of a secret without that prefix.
    pub(super) standard: Hmac<Sha256>,
    /// An HMAC with the decoded base64 of a secret without the prefix. The reference libraries decode such a secret too. Only
    /// verified, never used to sign.
    pub(super) decoded: Option<Hmac<Sha256>>,
    /// The digest of the secret under `plain`. Comparing digests does not reveal the length of the secret.
    pub(super) secret_digest: Digest,
}

pub(super) type Digest = [u8; 32];

impl Key {
    pub(super) fn new(secret: &SecretString, schemes: &[Scheme]) -> Result<Self, InvalidSecret> {
        let secret = secret.expose_secret();
        let plain = hmac_with_key(secret.as_bytes());
        let (standard, decoded) = match secret.strip_prefix(SECRET_PREFIX) {
            _ if !schemes.contains(&Scheme::Standard) => (plain.clone(), None),
            Some(encoded) => (hmac_with_key(&decode_secret(encoded)?), None),
            None => {
                let decoded = decode_secret(secret).ok();
                (plain.clone(), decoded.map(|key| hmac_with_key(&key)))
            }
        };
        let secret_digest = digest(&plain, &[secret.as_bytes()]);
        Ok(Self {
            plain,
            standard,
            decoded,
            secret_digest,
        })
    }

    /// Returns the keys with which a sender of Standard Webhooks may sign.
    pub(super) fn standard_keys(&self) -> impl Iterator<Item = &Hmac<Sha256>> {
        std::iter::once(&self.standard).chain(&self.decoded)
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

/// The base64 that the reference libraries accept: the standard alphabet, with or without padding. They accept every length but 0.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

pub(super) fn decode_secret(encoded: &str) -> Result<Vec<u8>, InvalidSecret> {
    if encoded.is_empty() {
        return Err(InvalidSecret::Empty);
    }
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let is_url_alphabet = |c: char| is_base64(c) || "-_".contains(c);
    match BASE64.decode(encoded) {
        Ok(key) if key.is_empty() => Err(InvalidSecret::Empty),
        Ok(key) => Ok(key),
        Err(_) if encoded.chars().all(is_base64) => Err(InvalidSecret::Incomplete),
        Err(_) if encoded.chars().all(is_url_alphabet) => Err(InvalidSecret::UrlAlphabet),
        Err(_) => Err(InvalidSecret::Alphabet),
    }
}

/// Returns the number of bytes that an attacker has to guess: of the decoded base64 after `whsec_`, or of the text.
#[must_use]
pub(crate) fn key_bytes(secret: &SecretString) -> usize {
    let secret = secret.expose_secret();
    let encoded = secret.strip_prefix(SECRET_PREFIX);
    let decoded = encoded.and_then(|encoded| decode_secret(encoded).ok());
    decoded.map_or(secret.len(), |key| key.len())
}

/// Returns whether the secret is the text of a key or its base64: it has no prefix, and is valid base64.
#[must_use]
pub(crate) fn is_ambiguous(secret: &SecretString) -> bool {
    let secret = secret.expose_secret();
    !secret.starts_with(SECRET_PREFIX) && decode_secret(secret).is_ok()
}
