//! Why a proof holds, or does not: for people who look for the mistake. The gate asks [`Verifier`] and tells nobody.

use std::fmt;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};

use super::header_values::{parse_hex, parse_seconds, single_value, values};
use super::key::{InvalidSecret, Key, SECRET_PREFIX, decode_secret, digest, keyed};
use super::scheme::Scheme;
use super::verifier::Verifier;
use super::{body_hmac, standard, timestamped};
use crate::domain::timestamp::Timestamp;

/// What a scheme says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    Valid,
    /// The signature is right, and the time in it is too far from when the request came.
    OutsideTolerance {
        off: Duration,
        tolerance: Duration,
    },
    /// A header is missing, or is there more than once.
    MissingOrRepeated(HeaderName),
    /// A header is not what the scheme says.
    Malformed {
        header: HeaderName,
        rule: &'static str,
    },
    /// Another secret was presented.
    WrongSecret,
    /// It was signed with another secret, or other bytes were signed.
    Mismatch(Option<Hint>),
}

/// What would have made a signature right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// The body without the line break at its end.
    WithoutLastNewline,
    /// The secret's own letters as the key, and not what the base64 after `whsec_` means.
    SecretAsText,
    /// What the base64 after `whsec_` means as the key, and not the secret's own letters.
    SecretAsBase64,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("holds"),
            Self::OutsideTolerance { off, tolerance } => write!(
                f,
                "the signature is right, but its time is {} s from when it came, where {} s are tolerated",
                off.as_secs(),
                tolerance.as_secs()
            ),
            Self::MissingOrRepeated(header) => {
                write!(f, "the header {header} has to be there, once")
            }
            Self::Malformed { header, rule } => write!(f, "the header {header} has to be {rule}"),
            Self::WrongSecret => f.write_str("the header has another secret"),
            Self::Mismatch(hint) => {
                f.write_str("the signature is of another secret or of other bytes")?;
                match hint {
                    None => Ok(()),
                    Some(Hint::WithoutLastNewline) => f.write_str(
                        "; it would be right without the line break at the end of the body",
                    ),
                    Some(Hint::SecretAsText) => f.write_str(
                        "; the sender took the secret's letters as the key, where it is what the base64 after whsec_ means",
                    ),
                    Some(Hint::SecretAsBase64) => f.write_str(
                        "; the sender took what the base64 after whsec_ means as the key, where it is the secret's letters",
                    ),
                }
            }
        }
    }
}

/// Examines what each scheme that these headers try says of them and of this body, for somebody with this secret.
pub(crate) fn diagnose(
    secret: &SecretString,
    headers: &HeaderMap,
    body: &[u8],
    received_at: Timestamp,
    tolerance: Duration,
) -> Result<Vec<(Scheme, Diagnosis)>, InvalidSecret> {
    let tried: Vec<Scheme> = Scheme::all_of_request(headers).collect();
    let diagnoser = Diagnoser {
        secret,
        headers,
        body,
        received_at,
        tolerance,
    };
    tried
        .into_iter()
        .map(|scheme| Ok((scheme, diagnoser.of(scheme)?)))
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
    fn of(&self, scheme: Scheme) -> Result<Diagnosis, InvalidSecret> {
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
                .missing(&standard::ID)
                .or_else(|| self.outside_tolerance(&standard::TIMESTAMP, &verifier))
                .or_else(|| self.malformed_standard())
                .unwrap_or_else(|| Diagnosis::Mismatch(self.hint(&verifier))),
        })
    }

    fn missing(&self, header: &HeaderName) -> Option<Diagnosis> {
        let is_once = single_value(self.headers, header).is_some();
        (!is_once).then(|| Diagnosis::MissingOrRepeated(header.clone()))
    }

    /// What is wrong with its time, if the signature is right.
    fn outside_tolerance(&self, header: &HeaderName, verifier: &Verifier) -> Option<Diagnosis> {
        let Some(text) = single_value(self.headers, header) else {
            return self.missing(header);
        };
        let Some(sent_at) = parse_seconds(text) else {
            return Some(Diagnosis::Malformed {
                header: header.clone(),
                rule: "whole seconds since 1970",
            });
        };
        let is_right = verifier.accepts(self.headers, self.body, sent_at);
        is_right.then(|| Diagnosis::OutsideTolerance {
            off: sent_at - self.received_at,
            tolerance: self.tolerance,
        })
    }

    fn malformed_hex(&self, header: HeaderName) -> Option<Diagnosis> {
        let is_one = values(self.headers, &header).any(|text| parse_hex(text).is_some());
        (!is_one).then_some(Diagnosis::Malformed {
            header,
            rule: "sha256= and 64 hexadecimal digits",
        })
    }

    fn malformed_standard(&self) -> Option<Diagnosis> {
        let is_one = values(self.headers, &standard::SIGNATURE)
            .flat_map(str::split_ascii_whitespace)
            .any(|text| standard::parse_signature(text).is_some());
        (!is_one).then_some(Diagnosis::Malformed {
            header: standard::SIGNATURE,
            rule: "v1, and the base64 of 32 bytes, several with spaces between",
        })
    }

    /// What would make it right, whatever its time.
    fn hint(&self, verifier: &Verifier) -> Option<Hint> {
        let sent_at = [&timestamped::TIMESTAMP, &standard::TIMESTAMP]
            .into_iter()
            .find_map(|name| single_value(self.headers, name).and_then(parse_seconds))
            .unwrap_or(self.received_at);
        let shorter = self
            .body
            .strip_suffix(b"\r\n")
            .or_else(|| self.body.strip_suffix(b"\n"));
        if shorter.is_some_and(|body| verifier.accepts(self.headers, body, sent_at)) {
            return Some(Hint::WithoutLastNewline);
        }
        let scheme = *verifier.schemes.first()?;
        let with = |key: Key| Verifier {
            schemes: vec![scheme],
            keys: vec![key],
            tolerance: self.tolerance,
        };
        let misread = with(Key::misread(self.secret)?);
        misread
            .accepts(self.headers, self.body, sent_at)
            .then_some(if scheme == Scheme::Standard {
                Hint::SecretAsText
            } else {
                Hint::SecretAsBase64
            })
    }
}

impl Key {
    /// The key that a sender has who takes a secret of Standard Webhooks for text, or the other way round.
    fn misread(secret: &SecretString) -> Option<Self> {
        let text = secret.expose_secret();
        let encoded = text.strip_prefix(SECRET_PREFIX)?;
        let decoded = keyed(&decode_secret(encoded).ok()?);
        let digest = digest(&decoded, &[text.as_bytes()]);
        Some(Self {
            plain: decoded,
            standard: keyed(text.as_bytes()),
            digest,
        })
    }
}
