//! The NATS transport: one message per attempt, published to `JetStream`. An attempt succeeds when
//! the server confirms that a stream has stored the message.
//!
//! The sink does not use the library's reconnection. An attempt on a lost connection fails at once with the reason, and the next
//! attempt connects again. The sink does not create streams, because their owner decides about retention.

use std::str::FromStr;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{ConnectOptions, Event, HeaderMap, HeaderName, HeaderValue, ServerAddr};
use async_trait::async_trait;
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::address_policy::{AddressPolicy, HAS_DENIED_ADDRESS};
use super::headers::{MessageHeaders, redacted_lines};
use super::nats_subject::SubjectTemplate;
use super::sink::{Message, SendOutcome, Sink};
use crate::domain::delivery::AttemptResult;
use crate::random;
use crate::relay::settings::EndpointSettings;
use crate::telemetry::chain;

/// The name of this client in the server's monitoring.
const CLIENT_NAME: &str = concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

/// The header with the id by which a stream detects duplicates within its `duplicate_window`.
const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";

const DEFAULT_PORT: u16 = 4222;

/// The timeout for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of pings on an idle connection. Two unanswered pings mean that the connection is lost.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes messages to a NATS server.
pub(super) struct NatsSink {
    name: String,
    server: Server,
    subject: SubjectTemplate,
    headers: MessageHeaders,
    timeout: Duration,
    /// The last connection. Concurrent attempts wait while one of them connects.
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    jetstream: Context,
    /// Is cancelled when the library reports that the connection is lost.
    lost: CancellationToken,
}

impl Connection {
    /// Returns whether messages can be published. Under load, the library may drop the event about a
    /// lost connection, so its state is checked too.
    fn is_usable(&self) -> bool {
        let state = self.jetstream.client().connection_state();
        !self.lost.is_cancelled() && state == State::Connected
    }
}

impl NatsSink {
    /// Checks the settings. The error is a clause that names the setting.
    pub(super) fn new(
        settings: &EndpointSettings,
        url: &Url,
        policy: &AddressPolicy,
    ) -> Result<Self, String> {
        if settings.auth.is_some() {
            return Err(
                "auth is only for HTTP endpoints. For NATS, put user:password@ or token@ into url."
                    .to_owned(),
            );
        }
        let subject = match settings.subject.trim() {
            "" => SubjectTemplate::default(),
            template => SubjectTemplate::parse(template)?,
        };
        Ok(Self {
            name: settings.name.clone(),
            server: Server::new(url, policy)?,
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
        let lost = CancellationToken::new();
        let client = self.server.connect(&self.name, &lost).await?;
        let jetstream = ContextBuilder::new().timeout(self.timeout).build(client);
        let connection = Connection { jetstream, lost };
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
        let Connection { jetstream, lost } = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return SendOutcome::no_response(chain(&error)),
        };
        let published = PublishMessage::build()
            .headers(self.headers(message))
            .payload(message.body.clone());
        let stored = async {
            let subject = self.subject.for_body(&message.body);
            jetstream.send_publish(subject, published).await?.await
        };
        match lost.run_until_cancelled(stored).await {
            Some(Ok(_stored_or_duplicate)) => SendOutcome {
                result: AttemptResult::Acknowledged,
                status_code: None,
                error: String::new(),
            },
            Some(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => {
                SendOutcome::no_response(format!(
                    "no JetStream stream accepts the subject {}",
                    self.subject
                ))
            }
            Some(Err(error)) => SendOutcome::no_response(chain(&error)),
            None => SendOutcome::no_response(
                "the connection was lost before the server confirmed the message".to_owned(),
            ),
        }
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let mut head = vec![format!("PUB {}", self.subject.for_body(&message.body))];
        head.extend(redacted_lines(&self.headers.for_message(message)));
        head.push(format!("{MESSAGE_ID_HEADER}: {}", message.event_id));
        head
    }
}

/// The address of a server and the credentials for it.
struct Server {
    is_tls: bool,
    host: String,
    port: u16,
    user: String,
    password: Option<String>,
    policy: AddressPolicy,
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the host of the NATS server cannot be resolved")]
    Unresolved(#[from] std::io::Error),
    #[error("cannot connect to the NATS server")]
    Failed(#[from] async_nats::ConnectError),
}

impl Server {
    fn new(url: &Url, policy: &AddressPolicy) -> Result<Self, String> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        // In a URL, an IPv6 address is in brackets.
        let host = url.host_str().unwrap_or_default();
        let host = decoded(host.trim_start_matches('[').trim_end_matches(']'));
        if policy.denies_host(&host) {
            return Err(format!("url {HAS_DENIED_ADDRESS}"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(
                "url must end after the host and port. Use subject for the NATS subject."
                    .to_owned(),
            );
        }
        // TLS needs a crypto provider. An error means that one is already installed. Either provider is fine.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            is_tls: url.scheme() == "tls",
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
            user: decoded(url.username()),
            password: url.password().map(decoded),
            policy: policy.clone(),
        })
    }

    async fn connect(
        &self,
        endpoint: &str,
        lost: &CancellationToken,
    ) -> Result<async_nats::Client, ConnectionError> {
        let mut last_error = None;
        let mut addresses = self.addresses().await?;
        // Each attempt tries the addresses in a random order. An attempt may have time for only one
        // address, and the server at that address may be down.
        random::shuffle(&mut addresses);
        for address in addresses {
            match self.options(endpoint, lost).connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => last_error = Some(error),
            }
        }
        let error = last_error.expect("a resolved name has at least one address");
        Err(error.into())
    }

    /// Resolves the host and returns the allowed addresses. With TLS, the library needs the name, resolves it again and tries
    /// every address, so none may be denied. If the second answer differs, the certificate protects: nothing is sent before it
    /// is verified.
    async fn addresses(&self) -> std::io::Result<Vec<ServerAddr>> {
        let (host, port) = (&self.host, self.port);
        if self.is_tls {
            self.policy.check_every_address(host, port).await?;
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            return Ok(vec![format!("tls://{host}:{port}").parse()?]);
        }
        let resolved = self.policy.resolve_allowed(host, port).await?;
        let addresses = resolved.iter();
        addresses
            .map(|address| format!("nats://{address}").parse())
            .collect()
    }

    fn options(&self, endpoint: &str, lost: &CancellationToken) -> ConnectOptions {
        let (endpoint, lost) = (endpoint.to_owned(), lost.clone());
        let options = ConnectOptions::new()
            .name(CLIENT_NAME)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            // The library would connect to other servers of the cluster without the address check.
            .ignore_discovered_servers()
            // The lowest value that the library accepts. The sink does not use a reconnected client.
            .max_reconnects(1)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => lost.cancel(),
                    // For example, a missing permission is reported only here.
                    Event::ServerError(error) => {
                        // The text before the first quote. The quoted subject after it has values of the message.
                        let error = error.to_string();
                        let error = error.split('"').next().unwrap_or_default().trim_end();
                        tracing::warn!(endpoint, error, "NATS server reported an error");
                    }
                    _ => {}
                }
                std::future::ready(())
            });
        match &self.password {
            Some(password) => options.user_and_password(self.user.clone(), password.clone()),
            None if !self.user.is_empty() => options.token(self.user.clone()),
            None => options,
        }
    }
}
