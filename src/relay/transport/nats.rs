//! The NATS transport: one message per attempt, published to `JetStream`. An attempt succeeds when
//! the server confirms that a stream has stored the message.
//!
//! The sink does not use the library's reconnection. An attempt on a lost connection fails at once with the reason, and the next
//! attempt connects again. The sink does not create streams, because their owner decides about retention.

mod events;
mod server;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use async_trait::async_trait;
use tokio::sync::Mutex;
use url::Url;

use super::headers::{MessageHeaders, redacted_lines};
use super::nats_subject::SubjectTemplate;
use super::network::Network;
use super::sink::{Message, SendOutcome, Sink};
use crate::domain::delivery::AttemptResult;
use crate::relay::settings::EndpointSettings;
use crate::telemetry::chain;

use events::ConnectionEvents;
use server::{ConnectionError, Servers};

/// The header with the id by which a stream detects duplicates within its `duplicate_window`.
const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";

/// The error if the server cannot confirm messages. The stream may have stored the message.
const INBOX_DENIED: &str = "the NATS user may not subscribe to its inbox, so the stream cannot confirm messages. Allow _INBOX.>, or \
                            set nats.inbox_prefix.";

/// Publishes messages to a NATS server.
pub(super) struct NatsSink {
    name: String,
    servers: Servers,
    subject: SubjectTemplate,
    headers: MessageHeaders,
    timeout: Duration,
    /// The last connection. Concurrent attempts wait while one of them connects.
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    jetstream: Context,
    events: Arc<ConnectionEvents>,
}

impl Connection {
    /// Returns whether messages can be published. Under load, the library may drop the event about a
    /// lost connection, so its state is checked too.
    fn is_usable(&self) -> bool {
        let state = self.jetstream.client().connection_state();
        self.events.can_confirm() && state == State::Connected
    }
}

impl NatsSink {
    /// Checks the settings. The error is a clause that names the setting.
    pub(super) fn new(
        settings: &EndpointSettings,
        urls: &[Url],
        network: &Network,
    ) -> Result<Self, String> {
        if settings.auth.is_some() {
            return Err(
                "auth is only for HTTP endpoints. For NATS, use the table nats, or put user:password@ or token@ into url."
                    .to_owned(),
            );
        }
        let subject = match settings.subject.trim() {
            "" => SubjectTemplate::default(),
            template => SubjectTemplate::parse(template)?,
        };
        Ok(Self {
            name: settings.name.clone(),
            servers: Servers::new(urls, &settings.nats.clone().unwrap_or_default(), network)?,
            subject,
            headers: MessageHeaders::new(settings)?,
            timeout: settings.timeout(),
            connection: Mutex::default(),
        })
    }

    /// Returns the current connection, or connects if there is no usable one.
    async fn connection(&self) -> Result<Connection, ConnectionError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_usable()) {
            return Ok(connection.clone());
        }
        *current = None;
        let events = Arc::new(ConnectionEvents::new());
        let client = self.servers.connect(&self.name, &events).await?;
        let jetstream = ContextBuilder::new().timeout(self.timeout).build(client);
        let connection = Connection { jetstream, events };
        Ok(current.insert(connection).clone())
    }

    /// Returns the headers of a message as NATS headers.
    fn headers(&self, message: &Message) -> HeaderMap {
        let signed = self.headers.for_message(message);
        let signed = signed.iter().filter_map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str(), value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in signed.chain([(MESSAGE_ID_HEADER, message.event_id.as_str())]) {
            let parsed = (HeaderName::from_str(name), HeaderValue::from_str(value));
            if let (Ok(name), Ok(value)) = parsed {
                headers.insert(name, value);
            }
        }
        headers
    }
}

#[async_trait]
impl Sink for NatsSink {
    async fn send(&self, message: &Message) -> SendOutcome {
        let Connection { jetstream, events } = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return SendOutcome::no_response(chain(&error)),
        };
        let published = PublishMessage::build()
            .headers(self.headers(message))
            .payload(message.body.clone());
        let subject = self.subject.for_body(&message.body);
        let refusals = events.watch_refusals();
        let stored = async {
            jetstream
                .send_publish(subject.clone(), published)
                .await?
                .await
        };
        // All branches are safe to drop. A confirmation counts even if the connection is lost at the same time.
        let failure = tokio::select! {
            biased;
            stored = stored => match stored {
                Ok(_stored_or_duplicate) => return SendOutcome {
                    result: AttemptResult::Acknowledged,
                    status_code: None,
                    error: String::new(),
                },
                Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                    format!("no JetStream stream accepts the subject {}", self.subject)
                }
                Err(error) => chain(&error),
            },
            () = events.inbox_denied.cancelled() => INBOX_DENIED.to_owned(),
            () = refusals.refused(&subject) => {
                format!("the NATS user may not publish to the subject {}", self.subject)
            }
            () = events.lost.cancelled() => {
                "the connection was lost before the server confirmed the message".to_owned()
            }
        };
        SendOutcome::no_response(failure)
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let mut head = vec![format!("PUB {}", self.subject.for_body(&message.body))];
        head.extend(redacted_lines(&self.headers.for_message(message)));
        head.push(format!("{MESSAGE_ID_HEADER}: {}", message.event_id));
        head
    }
}
