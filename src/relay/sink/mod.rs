//! How a try travels. A new way is one file here, behind one trait.

mod headers;
mod http;
mod nats;
mod subject;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;
use url::Url;

use super::guard::Guard;
use super::message::Message;
use super::settings::EndpointSettings;
use crate::domain::delivery::Tried;

/// Sends messages to one endpoint.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Sends a message, once. May be dropped at any moment, which counts as a try that failed.
    async fn send(&self, message: &Message) -> Attempted;

    /// What goes before the message's body, for people; what may be secret, masked.
    fn head(&self, message: &Message) -> Vec<String>;
}

/// What came of a try.
#[derive(Debug)]
pub(super) struct Attempted {
    /// What decides what follows.
    pub(super) tried: Tried,
    /// The HTTP status of the answer, if there was one.
    pub(super) status_code: Option<u16>,
    /// What went wrong, for people; empty if nothing did. Never with a secret or a body in it.
    pub(super) error: String,
}

impl Attempted {
    /// There was no answer, or none that counts.
    pub(super) fn unanswered(error: String) -> Self {
        Self {
            tried: Tried::Unanswered,
            status_code: None,
            error,
        }
    }
}

/// The sink that the endpoint's URL asks for. Fails with what is wrong, as the end of a sentence about the endpoint, and never repeats the
/// URL: it is as good as a secret.
pub(super) fn of(settings: &EndpointSettings, guard: &Guard) -> Result<Arc<dyn Sink>, String> {
    const RULE: &str =
        "must have a url such as https://app.example/webhooks/ or nats://nats.example:4222";
    let url = url(settings.url.expose_secret()).ok_or(RULE)?;
    match url.scheme() {
        "http" | "https" => Ok(Arc::new(http::HttpSink::new(settings, url, guard)?)),
        "nats" | "tls" => Ok(Arc::new(nats::NatsSink::new(settings, &url, guard)?)),
        _ => Err(RULE.to_owned()),
    }
}

fn url(text: &str) -> Option<Url> {
    Url::parse(text.trim()).ok().filter(Url::has_host)
}
