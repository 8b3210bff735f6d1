//! The signer: makes the headers that authenticate a message.

use axum::http::header::HeaderName;
use secrecy::SecretString;

use super::key::{InvalidSecret, Key};
use super::message::Message;
use super::scheme::Scheme;
use super::{body_hmac, cf_webhook_auth, standard, timestamped};

/// Signs messages. Its keys are computed once.
pub(crate) struct Signer {
    schemes: Vec<Scheme>,
    keys: Vec<Key>,
}

impl Signer {
    /// Makes a signer for these schemes. The first secret signs. The other secrets add signatures only in [`Scheme::Standard`],
    /// which allows several. [`Scheme::CfWebhookAuth`] adds nothing, because it has no signature.
    pub(crate) fn new(
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

    /// Returns the signature headers of a message. Returns none without a secret.
    #[must_use]
    pub(crate) fn sign(&self, message: &Message<'_>) -> Vec<(HeaderName, String)> {
        let Some(first) = self.keys.first() else {
            return Vec::new();
        };
        let mut headers = Vec::new();
        for scheme in &self.schemes {
            match scheme {
                Scheme::CfWebhookAuth => {}
                Scheme::Hmac => headers.push(body_hmac::sign(first, message.body)),
                Scheme::Timestamped => headers.extend(timestamped::sign(first, message)),
                Scheme::Standard => headers.extend(standard::sign(&self.keys, message)),
            }
        }
        headers
    }
}

impl Scheme {
    /// Returns the headers that authenticate this message with this secret.
    pub fn sign(
        self,
        secret: &SecretString,
        message: &Message<'_>,
    ) -> Result<Vec<(HeaderName, String)>, InvalidSecret> {
        if self == Self::CfWebhookAuth {
            return Ok(vec![cf_webhook_auth::sign(secret)]);
        }
        let signer = Signer::new(&[self], std::iter::once(secret.clone()))?;
        Ok(signer.sign(message))
    }
}
