//! The interface that every transport implements.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::delivery::AttemptResult;
use crate::domain::timestamp::Timestamp;

/// A message for an endpoint.
pub(in crate::relay) struct Message {
    /// The event's id. It is the same for every endpoint, attempt and replay.
    pub(in crate::relay) event_id: String,
    /// The time of the attempt, which the signature covers.
    pub(in crate::relay) sent_at: Timestamp,
    /// The exact bytes that are signed and sent.
    pub(in crate::relay) body: Bytes,
}

/// Sends messages to one endpoint.
#[async_trait]
pub(in crate::relay) trait Sink: Send + Sync {
    /// Sends a message once. The caller may drop the future at any await. The attempt then counts as failed.
    async fn send(&self, message: &Message) -> SendOutcome;

    /// Returns the lines before the message's body, for display. Values that may contain secrets are redacted.
    fn head(&self, message: &Message) -> Vec<String>;
}

/// The outcome of one call.
#[derive(Debug)]
pub(in crate::relay) struct SendOutcome {
    /// The result that decides whether the delivery is retried.
    pub(in crate::relay) result: AttemptResult,
    /// The HTTP status, if the endpoint sent one.
    pub(in crate::relay) status_code: Option<u16>,
    /// The reason of a failure, for display. Empty after a success. Never contains a secret or a body.
    pub(in crate::relay) error: String,
}

impl SendOutcome {
    /// Creates the outcome of a call without a complete response.
    pub(in crate::relay) fn no_response(error: String) -> Self {
        Self {
            result: AttemptResult::NoResponse,
            status_code: None,
            error,
        }
    }
}
