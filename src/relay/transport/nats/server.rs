//! The servers of a NATS endpoint, and the credentials for them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use futures_util::future::join_all;
use nkeys::{KeyPair, KeyPairType};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::events::ConnectionEvents;
use crate::config_types::read_file;
use crate::random;
use crate::relay::settings::NatsSettings;
use crate::relay::transport::address_policy::{AddressPolicy, HAS_DENIED_ADDRESS};
use crate::relay::transport::network::Network;

/// The name of this client in the server's monitoring.
const CLIENT_NAME: &str = concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

const DEFAULT_PORT: u16 = 4222;

/// The timeout for connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of pings on an idle connection. Two unanswered pings mean that the connection is lost.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The servers of an endpoint. A message goes to one of them.
pub(super) struct Servers {
    all: Vec<Server>,
    identity: Identity,
    /// The TLS configuration, with the client certificate. `None` if every server is `nats://`.
    tls: Option<rustls::ClientConfig>,
    inbox_prefix: Option<String>,
    policy: AddressPolicy,
}

/// The address of a server.
struct Server {
    is_tls: bool,
    host: String,
    port: u16,
}

/// The user of the service at every server.
enum Identity {
    Anonymous,
    Token(SecretString),
    Password(String, SecretString),
    /// The seed of a key pair.
    Nkey(SecretString),
    /// A file with a JWT and a seed. It is read for each connection, so a new file needs no restart.
    CredentialsFile(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the host of the NATS server cannot be resolved")]
    Unresolved(#[from] io::Error),
    #[error("nats.credentials_file cannot be used")]
    Credentials(#[source] io::Error),
    #[error("cannot connect to the NATS server")]
    Failed(#[from] async_nats::ConnectError),
}

impl Servers {
    /// Checks the settings. The error is a clause that names the setting.
    pub(super) fn new(
        urls: &[Url],
        settings: &NatsSettings,
        network: &Network,
    ) -> Result<Self, String> {
        let servers = urls.iter().map(|url| Server::new(url, &network.policy));
        let all = servers.collect::<Result<Vec<_>, _>>()?;
        let client_identity = settings.client_identity()?;
        let has_tls = all.iter().any(|server| server.is_tls);
        if client_identity.is_some() && !has_tls {
            return Err("nats.client_cert_file needs a URL with tls://".to_owned());
        }
        let tls = has_tls.then(|| network.authorities.client_config(client_identity));
        Ok(Self {
            all,
            identity: Identity::new(urls, settings)?,
            tls: tls.transpose()?,
            inbox_prefix: settings.inbox_prefix()?.map(str::to_owned),
            policy: network.policy.clone(),
        })
    }

    /// Connects to one of the servers.
    pub(super) async fn connect(
        &self,
        endpoint: &str,
        events: &Arc<ConnectionEvents>,
    ) -> Result<async_nats::Client, ConnectionError> {
        let mut addresses = self.addresses().await?;
        // Each attempt tries the addresses in a random order. An attempt may have time for only one
        // address, and the server at that address may be down.
        random::shuffle(&mut addresses);
        let mut last_error = None;
        for address in addresses {
            let options = self.options(endpoint, events)?;
            match options.connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => last_error = Some(error),
            }
        }
        let error = last_error.expect("a resolved name has at least one address");
        Err(error.into())
    }

    /// Resolves the hosts and returns the allowed addresses of all servers. Fails if no host can be resolved.
    async fn addresses(&self) -> io::Result<Vec<ServerAddr>> {
        let resolving = self.all.iter().map(|server| server.addresses(&self.policy));
        let (mut addresses, mut error) = (Vec::new(), None);
        for resolved in join_all(resolving).await {
            match resolved {
                Ok(resolved) => addresses.extend(resolved),
                Err(unresolved) => error = Some(unresolved),
            }
        }
        match error {
            Some(error) if addresses.is_empty() => Err(error),
            _ => Ok(addresses),
        }
    }

    fn options(
        &self,
        endpoint: &str,
        events: &Arc<ConnectionEvents>,
    ) -> Result<ConnectOptions, ConnectionError> {
        let (endpoint, events) = (endpoint.to_owned(), Arc::clone(events));
        let mut options = ConnectOptions::new()
            .name(CLIENT_NAME)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            // The library would connect to other servers of the cluster without the address check.
            .ignore_discovered_servers()
            // The lowest value that the library accepts. The sink does not use a reconnected client.
            .max_reconnects(1)
            .event_callback(move |event| {
                events.handle(&endpoint, &event);
                std::future::ready(())
            });
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(tls.clone());
        }
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        self.identity
            .add_to(options)
            .map_err(ConnectionError::Credentials)
    }
}

impl Server {
    fn new(url: &Url, policy: &AddressPolicy) -> Result<Self, String> {
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
        Ok(Self {
            is_tls: url.scheme() == "tls",
            host,
            port: url.port().unwrap_or(DEFAULT_PORT),
        })
    }

    /// Resolves the host and returns the allowed addresses. With TLS, the library needs the name, resolves it again and tries
    /// every address, so none may be denied. If the second answer differs, the certificate protects the connection: nothing is sent
    /// before it is verified.
    async fn addresses(&self, policy: &AddressPolicy) -> io::Result<Vec<ServerAddr>> {
        let (host, port) = (&self.host, self.port);
        if self.is_tls {
            policy.check_every_address(host, port).await?;
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            return Ok(vec![format!("tls://{host}:{port}").parse()?]);
        }
        let resolved = policy.resolve_allowed(host, port).await?;
        let addresses = resolved.iter();
        addresses
            .map(|address| format!("nats://{address}").parse())
            .collect()
    }
}

impl Identity {
    /// Returns the only identity in the settings. The error is a clause that names the setting.
    fn new(urls: &[Url], settings: &NatsSettings) -> Result<Self, String> {
        let of_url = Self::of_urls(urls)?;
        let file = settings.credentials_file();
        let nkey = settings.nkey_secret.get();
        match (of_url, file, nkey) {
            (identity, None, None) => Ok(identity),
            (Self::Anonymous, Some(file), None) => {
                let check = credentials(file).map(drop);
                check.map_err(|error| format!("nats.credentials_file cannot be used: {error}"))?;
                Ok(Self::CredentialsFile(file.to_owned()))
            }
            (Self::Anonymous, None, Some(seed)) => {
                let pair = KeyPair::from_seed(seed.expose_secret()).ok();
                pair.filter(|pair| pair.key_pair_type() == KeyPairType::User).ok_or(
                    "nats.nkey_secret must be the seed of a user, which begins with SU and has 58 characters",
                )?;
                Ok(Self::Nkey(seed.clone()))
            }
            _ => Err(
                "the user in url, nats.credentials_file and nats.nkey_secret exclude each other. Set one of them."
                    .to_owned(),
            ),
        }
    }

    /// Returns the user in the URLs. Servers of one cluster have the same users, so only the first URL with a user counts.
    fn of_urls(urls: &[Url]) -> Result<Self, String> {
        let has_user = |url: &&Url| !url.username().is_empty() || url.password().is_some();
        let mut with_user = urls.iter().filter(has_user);
        let Some(url) = with_user.next() else {
            return Ok(Self::Anonymous);
        };
        if with_user
            .any(|other| (other.username(), other.password()) != (url.username(), url.password()))
        {
            return Err("url must have the same user for every server".to_owned());
        }
        let user = decoded(url.username());
        Ok(match url.password() {
            Some(password) => Self::Password(user, decoded(password).into()),
            None => Self::Token(user.into()),
        })
    }

    fn add_to(&self, options: ConnectOptions) -> io::Result<ConnectOptions> {
        Ok(match self {
            Self::Anonymous => options,
            Self::Token(token) => options.token(token.expose_secret().to_owned()),
            Self::Password(user, password) => {
                options.user_and_password(user.clone(), password.expose_secret().to_owned())
            }
            Self::Nkey(seed) => options.nkey(seed.expose_secret().to_owned()),
            Self::CredentialsFile(file) => {
                let text = credentials(file)?;
                options.credentials(text.expose_secret())?
            }
        })
    }
}

/// Reads and checks a file of credentials. Its errors repeat nothing from the file.
fn credentials(file: &Path) -> io::Result<SecretString> {
    let text = SecretString::from(read_file(file)?);
    let parsed = ConnectOptions::with_credentials(text.expose_secret());
    match parsed {
        Ok(_) => Ok(text),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file must have a user's JWT and seed, as nsc writes them",
        )),
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
