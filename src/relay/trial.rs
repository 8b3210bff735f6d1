//! An endpoint tried out by hand: what it would get, and whether it takes it.

use std::sync::Arc;

use super::Settings;
use super::endpoint::Endpoint;
use super::message::{Formed, Message, NotFormed};
use super::sink;
use crate::clock::Clock;
use crate::domain::delivery::Tried;
use crate::domain::event::Model;
use crate::random;

/// An event of an image that there is not, told as `test`.
const SAMPLE: &str = include_str!("sample.json");

/// An endpoint of the settings, to be tried out.
pub(crate) struct Trial {
    endpoint: Arc<Endpoint>,
    clock: Arc<dyn Clock>,
}

/// What an endpoint would be sent.
pub(crate) struct Preview {
    /// The request's line and headers; those that may hold secrets, masked.
    pub(crate) head: Vec<String>,
    /// The exact body.
    pub(crate) body: String,
}

/// Why there is nothing to send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NothingToSend {
    /// The message could not be made.
    #[error("the endpoint gets nothing of this event: {0}")]
    NotFormed(String),
    /// The endpoint's own condition or transformation does not want it.
    #[error("the endpoint does not want this event: its `when` or its `transform` leaves it out")]
    Unwanted,
}

impl Trial {
    /// The endpoint with this name, if there is one. The settings are known to be right.
    pub(crate) fn of(settings: &Settings, name: &str, clock: Arc<dyn Clock>) -> Option<Self> {
        let endpoints = settings.endpoints().unwrap_or_default();
        let told = settings.told_of_failures().unwrap_or_default();
        let mut endpoints = endpoints.into_iter().chain(told);
        let endpoint = Arc::new(endpoints.find(|endpoint| endpoint.name == name)?);
        Some(Self { endpoint, clock })
    }

    /// An event to try it out with, under a new id.
    pub(crate) fn sample(&self) -> String {
        let id = format!("evt_{}", random::uuid_v7().simple());
        SAMPLE
            .trim_end()
            .replace("evt_sample", &id)
            .replace("2026-01-15T10:30:45.000000Z", &self.clock.now().to_string())
    }

    /// What the endpoint would be sent of this event.
    pub(crate) async fn preview(&self, event: &str) -> Result<Preview, NothingToSend> {
        let message = self.message(event).await?;
        Ok(Preview {
            head: self.endpoint.sink.head(&message),
            body: String::from_utf8_lossy(&message.body).into_owned(),
        })
    }

    /// Sends this event, once, and says what came of it: what was answered, or what went wrong. Nothing is written down.
    pub(crate) async fn send(&self, event: &str) -> Result<Result<String, String>, NothingToSend> {
        let message = self.message(event).await?;
        let sending = self.endpoint.sink.send(&message);
        let attempted = match tokio::time::timeout(self.endpoint.timeout, sending).await {
            Ok(attempted) => attempted,
            Err(_) => sink::Attempted::unanswered("there was no whole answer in time".to_owned()),
        };
        Ok(match attempted.tried {
            Tried::Answered { status, .. } if (200..300).contains(&status) => {
                Ok(format!("it answered {status}"))
            }
            Tried::Acknowledged => Ok("it acknowledged the message".to_owned()),
            _ => Err(attempted.error),
        })
    }

    async fn message(&self, event: &str) -> Result<Message, NothingToSend> {
        let not_formed = |error: NotFormed| NothingToSend::NotFormed(error.to_string());
        let told: serde_json::Value = serde_json::from_str(event).unwrap_or_default();
        let model = told["model"]["label"].as_str().and_then(Model::labelled);
        let formed = self.endpoint.form.form(event.to_owned(), model);
        let body = match formed.await.map_err(not_formed)? {
            Formed::Whole(text) | Formed::Changed(text) => text,
            Formed::Unwanted => return Err(NothingToSend::Unwanted),
        };
        Ok(Message {
            event_id: told["id"].as_str().unwrap_or("evt_none").to_owned(),
            sent_at: self.clock.now(),
            body: body.into(),
        })
    }
}
