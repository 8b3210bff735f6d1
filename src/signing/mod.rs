//! Proof of the sender: does a request show that its sender knows one of our secrets?
//!
//! One file a scheme, each with how it is checked and how it is made. Any one valid proof is enough. Nothing is compared but
//! digests, in constant time, and no comparison is skipped because an earlier one held.

mod body_hmac;
mod cf_webhook_auth;
mod examine;
mod standard;
mod timestamped;

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::domain::timestamp::Timestamp;

pub use examine::{Finding, Hint, examine};

/// A way to prove that one knows a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The secret itself in a header. What Cloudflare sends.
    CfWebhookAuth,
    /// A hexadecimal HMAC-SHA256 of the body.
    Hmac,
    /// A hexadecimal HMAC-SHA256 of a timestamp and the body.
    Timestamped,
    /// Standard Webhooks.
    Standard,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 4] = [
        Self::CfWebhookAuth,
        Self::Hmac,
        Self::Timestamped,
        Self::Standard,
    ];

    /// The word in settings and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CfWebhookAuth => "cf-webhook-auth",
            Self::Hmac => "hmac",
            Self::Timestamped => "timestamped",
            Self::Standard => "standard",
        }
    }

    /// The scheme with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// The first scheme that a request with these headers tries; whether it is accepted is another question.
    #[must_use]
    pub fn tried(headers: &HeaderMap) -> Option<Self> {
        Self::all_tried(headers).next()
    }

    /// Every scheme that they try.
    fn all_tried(headers: &HeaderMap) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|scheme| {
            let names: &[HeaderName] = match scheme {
                Self::CfWebhookAuth => &[cf_webhook_auth::HEADER],
                Self::Hmac => &body_hmac::HEADERS,
                Self::Timestamped => &[timestamped::SIGNATURE],
                Self::Standard => &[standard::SIGNATURE],
            };
            names.iter().any(|name| headers.contains_key(name))
        })
    }

    /// The headers that prove to a service like this one that the sender of this body knows the secret.
    pub fn prove(
        self,
        secret: &SecretString,
        message: &Message<'_>,
    ) -> Result<Vec<(HeaderName, String)>, InvalidSecret> {
        if self == Self::CfWebhookAuth {
            return Ok(vec![cf_webhook_auth::prove(secret)]);
        }
        let signer = Signer::new(&[self], std::iter::once(secret.clone()))?;
        Ok(signer.sign(message))
    }
}

/// What is to be proved to come from us, for the schemes that look at it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The message's id.
    pub id: &'a str,
    /// When it is sent.
    pub sent_at: Timestamp,
    /// The exact bytes.
    pub body: &'a [u8],
}

/// A secret that looks like a Standard Webhooks secret and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has a secret that begins with whsec_, so the rest must be base64 of 24 to 64 bytes")]
pub struct InvalidSecret;

/// Signs messages, with keys that are made once.
pub struct Signer {
    schemes: Vec<Scheme>,
    keys: Vec<Key>,
}

impl Signer {
    /// Signs under these schemes. The secrets come with the one that counts first; the others sign beside it where a scheme has room for
    /// several signatures. [`Scheme::CfWebhookAuth`] has no signature to make.
    pub fn new(
        schemes: &[Scheme],
        secrets: impl Iterator<Item = SecretString>,
    ) -> Result<Self, InvalidSecret> {
        Ok(Self {
            schemes: schemes.to_vec(),
            keys: secrets
                .map(|secret| Key::new(&secret, schemes))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The headers that prove where the message comes from; none without a secret.
    #[must_use]
    pub fn sign(&self, message: &Message<'_>) -> Vec<(HeaderName, String)> {
        let Some(first) = self.keys.first() else {
            return Vec::new();
        };
        let mut headers = Vec::new();
        for scheme in &self.schemes {
            match scheme {
                Scheme::CfWebhookAuth => {}
                Scheme::Hmac => headers.push(body_hmac::prove(first, message.body)),
                Scheme::Timestamped => headers.extend(timestamped::prove(first, message)),
                Scheme::Standard => headers.extend(standard::prove(&self.keys, message)),
            }
        }
        headers
    }
}

/// Checks proofs.
pub struct Verifier {
    schemes: Vec<Scheme>,
    keys: Vec<Key>,
    tolerance: Duration,
}

impl Verifier {
    /// Accepts these schemes, with any of these secrets. Without a secret, authentication is disabled.
    pub fn new(
        schemes: &[Scheme],
        secrets: impl Iterator<Item = SecretString>,
        tolerance: Duration,
    ) -> Result<Self, InvalidSecret> {
        Ok(Self {
            schemes: schemes.to_vec(),
            keys: secrets
                .map(|secret| Key::new(&secret, schemes))
                .collect::<Result<_, _>>()?,
            tolerance,
        })
    }

    /// Returns whether authentication is disabled, because there is no secret.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a request with these headers and this body shows that its sender knows a secret.
    #[must_use]
    pub fn accepts(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
        let proofs = self.schemes.iter().map(|scheme| match scheme {
            Scheme::CfWebhookAuth => cf_webhook_auth::holds(&self.keys, headers),
            Scheme::Hmac => body_hmac::holds(&self.keys, headers, body),
            Scheme::Timestamped => timestamped::holds(&self.keys, headers, body, |sent_at| {
                self.is_recent(sent_at, now)
            }),
            Scheme::Standard => standard::holds(&self.keys, headers, body, |sent_at| {
                self.is_recent(sent_at, now)
            }),
        });
        self.is_disabled() || bool::from(any_holds(proofs))
    }

    fn is_recent(&self, sent_at: Timestamp, now: Timestamp) -> bool {
        sent_at - now <= self.tolerance
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("schemes", &self.schemes)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// A secret, made ready for each scheme once.
struct Key {
    /// Keyed with the secret's own bytes.
    plain: Hmac<Sha256>,
    /// Keyed as Standard Webhooks says: with what the base64 after `whsec_` means.
    standard: Hmac<Sha256>,
    /// The secret's digest under `plain`, to compare a presented secret with without showing its length.
    digest: Digest,
}

/// An HMAC-SHA256.
type Digest = [u8; 32];

impl Key {
    fn new(secret: &SecretString, schemes: &[Scheme]) -> Result<Self, InvalidSecret> {
        let secret = secret.expose_secret();
        let plain = keyed(secret.as_bytes());
        let standard = match secret.strip_prefix(standard::SECRET_PREFIX) {
            Some(encoded) if schemes.contains(&Scheme::Standard) => {
                keyed(&standard::decode_secret(encoded)?)
            }
            Some(_) | None => plain.clone(),
        };
        let digest = digest(&plain, &[secret.as_bytes()]);
        Ok(Self {
            plain,
            standard,
            digest,
        })
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The HMAC of the parts, one after another.
fn digest(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Digest {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Whether any of them holds; all of them are asked.
fn any_holds(proofs: impl Iterator<Item = Choice>) -> Choice {
    proofs.fold(Choice::from(0), |any, proof| any | proof)
}

/// Whether any of the claimed digests is the right one.
fn is_among(claimed: &[Digest], expected: &Digest) -> Choice {
    any_holds(claimed.iter().map(|claimed| claimed.ct_eq(expected)))
}

/// A digest written in hexadecimal, in any case, with or without `sha256=` before it.
fn parse_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    hex::decode_to_slice(text.strip_prefix("sha256=").unwrap_or(text), &mut digest).ok()?;
    Some(digest)
}

/// The values of a header that are text.
fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// The value of a header that is there once. One that is there twice has no one meaning, and hashing the body for each would
/// let a stranger make us work.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whole seconds since 1970, in digits alone.
fn parse_seconds(text: &str) -> Option<Timestamp> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    Timestamp::from_unix_seconds(text.parse().ok().filter(|_| is_number)?).ok()
}

#[cfg(test)]
mod tests;
