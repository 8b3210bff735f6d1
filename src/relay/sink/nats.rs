//! Over NATS: one message a try, published to `JetStream`, and sent once a server says that a stream has stored it.
//!
//! A connection is ours to make, one at a time: a try on one that is lost fails at once and says why, and the next makes another.
//! The stream is its owner's to make: what it keeps, and for how long, is not for a publisher to say.

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

use super::headers::{Headers, lines};
use super::subject::Subject;
use super::{Attempted, Sink};
use crate::domain::delivery::Tried;
use crate::random;
use crate::relay::guard::Guard;
use crate::relay::message::Message;
use crate::relay::settings::EndpointSettings;
use crate::telemetry::chain;

/// What the server calls us.
const CLIENT: &str = concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

/// By this a stream knows a message that it has already, for as long as its `duplicate_window` is.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The port of NATS.
const PORT: u16 = 4222;

/// How long one address may take until we are connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a silent connection is asked whether it is there; it is lost when two have not been answered.
const PING: Duration = Duration::from_secs(10);

pub(super) struct NatsSink {
    /// The endpoint's name.
    name: String,
    server: Server,
    subject: Subject,
    headers: Headers,
    timeout: Duration,
    /// The last connection. Whoever wants one while it is made waits for it.
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    jetstream: Context,
    is_lost: CancellationToken,
}

impl Connection {
    /// The library may forget to tell of a loss when it has much to tell, but not to note it.
    fn is_good(&self) -> bool {
        let state = self.jetstream.client().connection_state();
        !self.is_lost.is_cancelled() && state == State::Connected
    }
}

impl NatsSink {
    pub(super) fn new(
        settings: &EndpointSettings,
        url: &Url,
        guard: &Guard,
    ) -> Result<Self, String> {
        if settings.auth.is_some() {
            return Err(
                "has auth, which is HTTP's: a user and a password, or a token, go before the @ of a url of NATS"
                    .to_owned(),
            );
        }
        let subject = match settings.subject.trim() {
            "" => Subject::default(),
            template => Subject::parse(template)?,
        };
        Ok(Self {
            name: settings.name.clone(),
            server: Server::new(url, guard)?,
            subject,
            headers: Headers::new(settings)?,
            timeout: settings.timeout(),
            connection: Mutex::default(),
        })
    }

    async fn connection(&self) -> Result<Connection, NotConnected> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|one| one.is_good()) {
            return Ok(connection.clone());
        }
        *kept = None;
        let is_lost = CancellationToken::new();
        let client = self.server.connect(&self.name, &is_lost).await?;
        let jetstream = ContextBuilder::new().timeout(self.timeout).build(client);
        let connection = Connection { jetstream, is_lost };
        Ok(kept.insert(connection).clone())
    }

    /// Everything but the bytes.
    fn headers(&self, message: &Message) -> HeaderMap {
        let own = self.headers.of(message);
        let own = own.iter().filter_map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str(), value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in own.chain([(MESSAGE_ID, message.event_id.as_str())]) {
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
    async fn send(&self, message: &Message) -> Attempted {
        let Connection { jetstream, is_lost } = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return Attempted::unanswered(chain(&error)),
        };
        let published = PublishMessage::build()
            .headers(self.headers(message))
            .payload(message.body.clone());
        let stored = async {
            let subject = self.subject.of(&message.body);
            jetstream.send_publish(subject, published).await?.await
        };
        match is_lost.run_until_cancelled(stored).await {
            Some(Ok(_stored_or_known)) => Attempted {
                tried: Tried::Acknowledged,
                status_code: None,
                error: String::new(),
            },
            Some(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => {
                Attempted::unanswered(format!(
                    "no JetStream stream takes the subject {}",
                    self.subject
                ))
            }
            Some(Err(error)) => Attempted::unanswered(chain(&error)),
            None => Attempted::unanswered(
                "the connection was lost before the server said that the message is stored"
                    .to_owned(),
            ),
        }
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let mut head = vec![format!("PUB {}", self.subject.of(&message.body))];
        head.extend(lines(&self.headers.of(message)));
        head.push(format!("{MESSAGE_ID}: {}", message.event_id));
        head
    }
}

/// Where the server is, and how we say who we are.
struct Server {
    is_tls: bool,
    host: String,
    port: u16,
    user: String,
    password: Option<String>,
    guard: Guard,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NotConnected {
    #[error("the NATS server cannot be found")]
    NotFound(#[from] std::io::Error),
    #[error("the NATS server cannot be connected to")]
    Refused(#[from] async_nats::ConnectError),
}

impl Server {
    fn new(url: &Url, guard: &Guard) -> Result<Self, String> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        // Brackets are how URLs write an IPv6 address.
        let host = url.host_str().unwrap_or_default();
        let host = decoded(host.trim_start_matches('[').trim_end_matches(']'));
        if host.parse().is_ok_and(|ip| guard.refuses(ip)) {
            return Err("has a url to an address that nothing is sent to".to_owned());
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("must have a url of NATS that ends with its port; what messages are published under is its subject".to_owned());
        }
        // TLS asks for it. An error means that a provider is there already, which is all that is wanted.
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            is_tls: url.scheme() == "tls",
            host,
            port: url.port().unwrap_or(PORT),
            user: decoded(url.username()),
            password: url.password().map(decoded),
            guard: guard.clone(),
        })
    }

    async fn connect(
        &self,
        endpoint: &str,
        is_lost: &CancellationToken,
    ) -> Result<async_nats::Client, NotConnected> {
        let mut refused = None;
        let mut addresses = self.addresses().await?;
        // A try may have time for the first alone, and that one may be dead.
        random::shuffle(&mut addresses);
        for address in addresses {
            match self.options(endpoint, is_lost).connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => refused = Some(error),
            }
        }
        let error = refused.expect("what is found has an address");
        Err(error.into())
    }

    /// What was looked at is what is connected to. Over TLS the library needs the name and looks it up once more; there nothing is said
    /// before the server has proved that name.
    async fn addresses(&self) -> std::io::Result<Vec<ServerAddr>> {
        let found = self.guard.look_up(&self.host, self.port).await?;
        if self.is_tls {
            let host = &self.host;
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            return Ok(vec![format!("tls://{host}:{}", self.port).parse()?]);
        }
        let addresses = found.iter();
        addresses
            .map(|address| format!("nats://{address}").parse())
            .collect()
    }

    fn options(&self, endpoint: &str, is_lost: &CancellationToken) -> ConnectOptions {
        let (endpoint, is_lost) = (endpoint.to_owned(), is_lost.clone());
        let options = ConnectOptions::new()
            .name(CLIENT)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING)
            // Other servers of its cluster would be connected to without being looked at.
            .ignore_discovered_servers()
            // The least that the library takes. It may connect to the same address once more, which nobody uses then.
            .max_reconnects(1)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => is_lost.cancel(),
                    // Such as that this user may not publish here, which is said in no other way.
                    Event::ServerError(error) => {
                        // In quotes follows the subject, and what a message put into it.
                        let error = error.to_string();
                        let error = error.split('"').next().unwrap_or_default().trim_end();
                        tracing::warn!(endpoint, error, "the NATS server complains");
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
