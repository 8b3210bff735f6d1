//! Diagnosis of a credential, for the command `verify`. The gate uses only [`Verifier`] and never sends a diagnosis to a client.

use std::fmt;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};

use super::header_values::{parse_hex_digest, parse_unix_seconds, single_value, text_values};
use super::key::{InvalidSecret, Key, SECRET_PREFIX, decode_secret, digest, hmac_with_key};
use super::scheme::Scheme;
use super::verifier::Verifier;
use super::{body_hmac, standard, timestamped};
use crate::domain::timestamp::Timestamp;

/// The result of verifying a request with one scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// The credential is valid.
    Valid,
    /// The signature is valid, but its timestamp is too far from the time of receipt.
    OutsideTolerance {
        difference: Duration,
        tolerance: Duration,
    },
    /// A header is missing, or occurs more than once.
    MissingOrRepeated(HeaderName),
    /// A header breaks a rule of the scheme.
    Malformed {
        header: HeaderName,
        rule: &'static str,
    },
    /// The header carries another secret.
    WrongSecret,
    /// The sender signed with another secret, or signed other bytes.
    Mismatch(Option<Hint>),
}

/// A common mistake that explains a signature that does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// The body here ends with a line break that the sender did not sign.
    ExtraNewline,
    /// The sender used the text of the secret as the key, instead of the decoded base64 after `whsec_`.
    UsedSecretText,
    /// The sender used the decoded base64 after `whsec_` as the key, instead of the text of the secret.
    UsedDecodedSecret,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::OutsideTolerance {
                difference,
                tolerance,
            } => write!(
                f,
                "the signature is valid, but its timestamp is {} s from the time of receipt; the tolerance is {} s",
                difference.as_secs(),
                tolerance.as_secs()
            ),
            Self::MissingOrRepeated(header) => {
                write!(f, "the header {header} must be present exactly once")
            }
            Self::Malformed { header, rule } => write!(f, "the header {header} must be {rule}"),
            Self::WrongSecret => f.write_str("the header carries a different secret"),
            Self::Mismatch(hint) => {
                f.write_str("the signature does not match this secret and these bytes")?;
                match hint {
                    None => Ok(()),
                    Some(Hint::ExtraNewline) => f.write_str(
                        "; it matches the body without the line break at the end",
                    ),
                    Some(Hint::UsedSecretText) => f.write_str(
                        "; the sender used the text of the secret as the key, instead of the decoded base64 after whsec_",
                    ),
                    Some(Hint::UsedDecodedSecret) => f.write_str(
                        "; the sender used the decoded base64 after whsec_ as the key, instead of the text of the secret",
                    ),
                }
            }
        }
    }
}

/// Verifies a request with one secret, once for each scheme that its headers use. Returns a diagnosis for each scheme.
pub(crate) fn diagnose(
    secret: &SecretString,
    headers: &HeaderMap,
    body: &[u8],
    received_at: Timestamp,
    tolerance: Duration,
) -> Result<Vec<(Scheme, Diagnosis)>, InvalidSecret> {
    let schemes: Vec<Scheme> = Scheme::all_of_request(headers).collect();
    let diagnoser = Diagnoser {
        secret,
        headers,
        body,
        received_at,
        tolerance,
    };
    schemes
        .into_iter()
        .map(|scheme| Ok((scheme, diagnoser.diagnose(scheme)?)))
        .collect()
}

struct Diagnoser<'a> {
    secret: &'a SecretString,
    headers: &'a HeaderMap,
    body: &'a [u8],
    received_at: Timestamp,
    tolerance: Duration,
}

impl Diagnoser<'_> {
    fn diagnose(&self, scheme: Scheme) -> Result<Diagnosis, InvalidSecret> {
        let secrets = std::iter::once(self.secret.clone());
        let verifier = Verifier::new(&[scheme], secrets, self.tolerance)?;
        if verifier.accepts(self.headers, self.body, self.received_at) {
            return Ok(Diagnosis::Valid);
        }
        Ok(match scheme {
            Scheme::CfWebhookAuth => Diagnosis::WrongSecret,
            Scheme::Hmac => {
                let mut headers = body_hmac::HEADERS.into_iter();
                headers
                    .find(|name| self.headers.contains_key(name))
                    .and_then(|header| self.malformed_hex(header))
                    .unwrap_or_else(|| Diagnosis::Mismatch(self.hint(&verifier)))
            }
            Scheme::Timestamped => self
                .outside_tolerance(&timestamped::TIMESTAMP, &verifier)
                .or_else(|| self.malformed_hex(timestamped::SIGNATURE))
                .unwrap_or_else(|| Diagnosis::Mismatch(self.hint(&verifier))),
            Scheme::Standard => self
                .missing_or_repeated(&standard::ID)
                .or_else(|| self.outside_tolerance(&standard::TIMESTAMP, &verifier))
                .or_else(|| self.malformed_standard())
                .unwrap_or_else(|| Diagnosis::Mismatch(self.hint(&verifier))),
        })
    }

    fn missing_or_repeated(&self, header: &HeaderName) -> Option<Diagnosis> {
        let is_single = single_value(self.headers, header).is_some();
        (!is_single).then(|| Diagnosis::MissingOrRepeated(header.clone()))
    }

    /// Diagnoses the timestamp. Returns `None` if it is well-formed but the signature does not match.
    fn outside_tolerance(&self, header: &HeaderName, verifier: &Verifier) -> Option<Diagnosis> {
        let Some(text) = single_value(self.headers, header) else {
            return self.missing_or_repeated(header);
        };
        let Some(sent_at) = parse_unix_seconds(text) else {
            return Some(Diagnosis::Malformed {
                header: header.clone(),
                rule: "a Unix timestamp in whole seconds",
            });
        };
        let is_valid = verifier.accepts(self.headers, self.body, sent_at);
        is_valid.then(|| Diagnosis::OutsideTolerance {
            difference: sent_at - self.received_at,
            tolerance: self.tolerance,
        })
    }

    fn malformed_hex(&self, header: HeaderName) -> Option<Diagnosis> {
        let has_digest =
            text_values(self.headers, &header).any(|text| parse_hex_digest(text).is_some());
        (!has_digest).then_some(Diagnosis::Malformed {
            header,
            rule: "64 hexadecimal digits, with or without sha256= before them",
        })
    }

    fn malformed_standard(&self) -> Option<Diagnosis> {
        let has_digest = text_values(self.headers, &standard::SIGNATURE)
            .flat_map(str::split_ascii_whitespace)
            .any(|text| standard::parse_signature(text).is_some());
        (!has_digest).then_some(Diagnosis::Malformed {
            header: standard::SIGNATURE,
            rule: "v1, followed by the base64 of 32 bytes; spaces separate several signatures",
        })
    }

    /// Returns the mistake that explains the mismatch, if a known one does. Ignores whether the timestamp is recent.
    fn hint(&self, verifier: &Verifier) -> Option<Hint> {
        let sent_at = [&timestamped::TIMESTAMP, &standard::TIMESTAMP]
            .into_iter()
            .find_map(|name| single_value(self.headers, name).and_then(parse_unix_seconds))
            .unwrap_or(self.received_at);
        let body_without_newline = self
            .body
            .strip_suffix(b"\r\n")
            .or_else(|| self.body.strip_suffix(b"\n"));
        if body_without_newline.is_some_and(|body| verifier.accepts(self.headers, body, sent_at)) {
            return Some(Hint::ExtraNewline);
        }
        let scheme = *verifier.schemes.first()?;
        let verifier_with = |key: Key| Verifier {
            schemes: vec![scheme],
            keys: vec![key],
            tolerance: self.tolerance,
        };
        let misreading_verifier = verifier_with(Key::of_misread_secret(self.secret)?);
        misreading_verifier
            .accepts(self.headers, self.body, sent_at)
            .then_some(if scheme == Scheme::Standard {
                Hint::UsedSecretText
            } else {
                Hint::UsedDecodedSecret
            })
    }
}

impl Key {
    /// Returns the key of a sender that mistakes a Standard Webhooks secret for plain text, or plain text for such a secret.
    /// Returns `None` for a secret without the prefix `whsec_`.
    fn of_misread_secret(secret: &SecretString) -> Option<Self> {
        let text = secret.expose_secret();
        let encoded = text.strip_prefix(SECRET_PREFIX)?;
        let decoded_secret = hmac_with_key(&decode_secret(encoded).ok()?);
        let secret_digest = digest(&decoded_secret, &[text.as_bytes()]);
        Some(Self {
            plain: decoded_secret,
            standard: hmac_with_key(text.as_bytes()),
            decoded: None,
            secret_digest,
        })
    }
}
