//! How a try travels. A new way is one file here, behind one trait.

mod http;

use std::sync::Arc;

use async_trait::async_trait;

use super::endpoint::Endpoint;
use super::message::Message;
use crate::clock::Clock;
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

/// The sink that the endpoint's URL asks for.
pub(super) fn of(endpoint: &Arc<Endpoint>, clock: &Arc<dyn Clock>) -> Arc<dyn Sink> {
    Arc::new(http::HttpSink::new(Arc::clone(endpoint), Arc::clone(clock)))
}
