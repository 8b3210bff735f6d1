//! Manual tests of an endpoint, for `endpoints test` and `endpoints preview`.

use std::sync::Arc;

use serde_json::Value;

use super::deep_json::{self, UnreadableJson};
use super::endpoint::{Endpoint, Endpoints};
use super::payload::Built;
use super::transport::Message;
use crate::clock::Clock;
use crate::domain::delivery::AttemptResult;
use crate::domain::event::Model;
use crate::random;

/// A sample event with the name `test`, about an image that does not exist.
const SAMPLE: &str = include_str!("sample.json");

/// Previews and sends single messages, without a database.
pub(crate) struct EndpointTester {
    endpoint: Arc<Endpoint>,
    clock: Arc<dyn Clock>,
}

/// A message as an endpoint would receive it.
pub(crate) struct Preview {
    /// The request line and the headers. Values that may contain secrets are redacted.
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

/// The reason why an event has no message for the endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TestError {
    /// The message could not be built.
    #[error("the message cannot be built: {0}")]
    NotBuilt(String),
    /// `when` or `transform` filtered out the event.
    #[error(
        "the endpoint receives no message for this event: `when` or `transform` filters it out"
    )]
    FilteredOut,
}

impl EndpointTester {
    /// Returns a tester for the endpoint with this name. `None` if there is no such endpoint.
    pub(crate) fn new(endpoints: &Endpoints, name: &str, clock: Arc<dyn Clock>) -> Option<Self> {
        let endpoint = endpoints.find(name)?;
        Some(Self { endpoint, clock })
    }

    /// Returns a sample event with a new id.
    pub(crate) fn sample(&self) -> String {
        let id = format!("evt_{}", random::uuid_v7().simple());
        SAMPLE
            .trim_end()
            .replace("evt_sample", &id)
            .replace("2026-01-15T10:30:45.000000Z", &self.clock.now().to_string())
    }

    /// Returns the message that the endpoint would receive for this event.
    pub(crate) async fn preview(&self, event: &str) -> Result<Preview, TestError> {
        let message = self.message(event).await?;
        Ok(Preview {
            head: self.endpoint.sink.head(&message),
            body: String::from_utf8_lossy(&message.body).into_owned(),
        })
    }

    /// Sends this event once and records nothing. The inner result is the endpoint's response or the reason of the failure.
    pub(crate) async fn send(&self, event: &str) -> Result<Result<String, String>, TestError> {
        let message = self.message(event).await?;
        let outcome = self.endpoint.send(&message).await;
        Ok(match outcome.result {
            AttemptResult::Response { status, .. } if (200..300).contains(&status) => {
                Ok(format!("the endpoint answered {status}"))
            }
            AttemptResult::Acknowledged => Ok("the server acknowledged the message".to_owned()),
            AttemptResult::Response { .. } | AttemptResult::NoResponse => Err(outcome.error),
        })
    }

    async fn message(&self, event: &str) -> Result<Message, TestError> {
        let fields = match deep_json::parse(event) {
            Ok(fields) => fields,
            // A text that is not JSON has neither a model nor an id.
            Err(UnreadableJson::NotJson) => Value::Null,
            // Without its model, the event would be shown with the fields that the endpoint must not see.
            Err(error @ UnreadableJson::TooDeep) => {
                return Err(TestError::NotBuilt(error.to_string()));
            }
        };
        let model = fields["model"]["label"]
            .as_str()
            .and_then(Model::from_label);
        let built = self.endpoint.message_builder.build(event.to_owned(), model);
        let body = match built.await {
            Ok(Built::Unchanged(text) | Built::Transformed(text)) => text,
            Ok(Built::FilteredOut) => return Err(TestError::FilteredOut),
            Err(error) => return Err(TestError::NotBuilt(error.to_string())),
        };
        Ok(Message {
            event_id: fields["id"].as_str().unwrap_or("evt_none").to_owned(),
            sent_at: self.clock.now(),
            body: body.into(),
        })
    }
}
