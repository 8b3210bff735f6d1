//! The verifier: authenticates requests by their headers and body.

use std::time::Duration;

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use secrecy::SecretString;

use super::header_values::first_match;
use super::key::{InvalidSecret, Key};
use super::scheme::Scheme;
use super::{body_hmac, cf_webhook_auth, standard, timestamped};
use crate::domain::timestamp::Timestamp;

/// Verifies the credentials of requests.
pub struct Verifier {
    pub(super) schemes: Vec<Scheme>,
    pub(super) keys: Vec<Key>,
    pub(super) tolerance: Duration,
}

/// The result of verifying a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Authentication is disabled, because there is no secret.
    Disabled,
    /// The request has a valid credential of this scheme.
    Verified(Scheme),
    /// The request has no valid credential.
    Failed,
}

impl Verifier {
    /// Makes a verifier that accepts these schemes with any of these secrets. Without a secret, authentication is disabled.
    /// `tolerance` limits the difference between a signature's timestamp and the time of receipt.
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

    /// Returns whether a request with these headers and this body is accepted. Without a secret, every request is.
    #[must_use]
    pub fn accepts(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> bool {
        match self.verify(headers, body, now) {
            Verification::Disabled | Verification::Verified(_) => true,
            Verification::Failed => false,
        }
    }

    /// Verifies a request with these headers and this body. If several schemes verify it, the first configured one counts.
    ///
    /// Evaluates every scheme. The choice of the first match takes the same time, whichever scheme it is.
    #[must_use]
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Verification {
        let matches = self.schemes.iter().map(|scheme| match scheme {
            Scheme::CfWebhookAuth => cf_webhook_auth::verify(&self.keys, headers),
            Scheme::Hmac => body_hmac::verify(&self.keys, headers, body),
            Scheme::Timestamped => timestamped::verify(&self.keys, headers, body, |sent_at| {
                self.is_recent(sent_at, now)
            }),
            Scheme::Standard => standard::verify(&self.keys, headers, body, |sent_at| {
                self.is_recent(sent_at, now)
            }),
        });
        let first_match = first_match(matches);
        if self.is_disabled() {
            return Verification::Disabled;
        }
        self.schemes
            .get(first_match)
            .map_or(Verification::Failed, |scheme| {
                Verification::Verified(*scheme)
            })
    }

    /// Returns copies of the headers that [`accepts`](Self::accepts) reads. The copies share no memory with the request.
    #[must_use]
    pub fn credentials(&self, headers: &HeaderMap) -> HeaderMap {
        let names = self
            .schemes
            .iter()
            .flat_map(|scheme| scheme.credential_headers());
        let mut copies = HeaderMap::new();
        for name in names {
            for value in headers.get_all(&name) {
                if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
                    copies.append(&name, copy);
                }
            }
        }
        copies
    }

    pub(super) fn is_recent(&self, sent_at: Timestamp, now: Timestamp) -> bool {
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

impl Scheme {
    /// Returns the first scheme that a request with these headers uses, whether its credential is valid or not.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Option<Self> {
        Self::all_of_request(headers).next()
    }

    /// Returns the headers in which a request with this scheme has its credential.
    fn credential_headers(self) -> Vec<HeaderName> {
        match self {
            Self::CfWebhookAuth => vec![cf_webhook_auth::HEADER],
            Self::Hmac => body_hmac::HEADERS.into(),
            Self::Timestamped => vec![timestamped::SIGNATURE, timestamped::TIMESTAMP],
            Self::Standard => vec![standard::SIGNATURE, standard::TIMESTAMP, standard::ID],
        }
    }

    /// Returns every scheme that a request with these headers uses.
    pub(super) fn all_of_request(headers: &HeaderMap) -> impl Iterator<Item = Self> {
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
}
