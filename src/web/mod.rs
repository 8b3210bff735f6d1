//! The common base of both HTTP listeners: serving, middleware, client addresses and problem documents.
//!
//! ```text
//! serve ──► request_id ──► access_log ──► catch panics ──► the listener's router ──► problem
//! ```

mod access_log;
mod client;
mod connections;
mod drain;
mod middleware;
mod problem;
mod request_id;
mod serve;

use serde::Deserialize;

use crate::config_types::{Bounded, InvalidSetting, ListenAddress, Networks, Seconds, UrlPath};
use client::ForwardedHeader;

pub use access_log::LineLimiter;
pub(crate) use access_log::{LogFields, LogLevel};
pub(crate) use client::client_key;
pub use client::{ClientAddress, TrustedProxies};
pub(crate) use drain::drain;
pub(crate) use middleware::refuse_until;
pub use middleware::with_middleware;
pub(crate) use problem::{Cause, Problem, ProblemType};
pub(crate) use request_id::RequestId;
use serve::CONNECTION_BYTES;
pub(crate) use serve::{AddressFilter, Limits, Server};

/// The `server` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address that receives webhooks.
    pub listen: ListenAddress,
    /// The path that answers health checks on the port for webhooks.
    pub health_path: HealthPath,
    /// The maximum size of a body.
    pub body_limit_bytes: Bounded<1, 67_108_864>,
    /// The time limit for the head of the first request on a connection, and for the body of each request.
    pub read_timeout_secs: Seconds<1, 300>,
    /// The time limit for an idle connection.
    pub keep_alive_secs: Seconds<1, 3600>,
    /// The maximum number of simultaneous connections.
    pub max_connections: Bounded<1, 1_000_000>,
    /// The maximum number of simultaneous connections of one client. 0 means no limit.
    pub max_connections_per_client: Bounded<0, 1_000_000>,
    /// The maximum memory for unauthenticated requests, in bytes.
    pub unauthenticated_memory_bytes: Bounded<1_048_576, 1_099_511_627_776>,
    /// The proxies whose forwarding header is used.
    pub trusted_proxies: Networks,
    /// The header in which these proxies forward the address of their client.
    pub client_address_header: ForwardedHeader,
}

impl Settings {
    /// Returns the limits of the webhook listener.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections.count(),
            max_connections_per_client: Some(self.max_connections_per_client.count())
                .filter(|limit| *limit > 0),
            head_timeout: self.read_timeout_secs.seconds(),
            keep_alive: self.keep_alive_secs.seconds(),
        }
    }

    /// Checks the rules that involve several settings.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let bodies = self.body_limit_bytes.count().saturating_mul(2);
        let needed = bodies.saturating_add(self.connection_memory());
        if self.unauthenticated_memory_bytes.count() < needed {
            return Err(InvalidSetting {
                key: "server.unauthenticated_memory_bytes",
                rule: format!(
                    "must be at least twice server.body_limit_bytes plus {CONNECTION_BYTES} for each of server.max_connections, that is {needed}"
                ),
            });
        }
        Ok(())
    }

    /// Returns the part of the memory for unauthenticated requests that is left for requests whose head has arrived.
    pub(crate) fn request_memory(&self) -> usize {
        let total = self.unauthenticated_memory_bytes.count();
        total.saturating_sub(self.connection_memory())
    }

    /// Returns the part of the memory for unauthenticated requests that the buffers of all connections can use.
    fn connection_memory(&self) -> usize {
        let connections = self.max_connections.count();
        connections.saturating_mul(CONNECTION_BYTES)
    }

    /// Returns the trusted proxies.
    #[must_use]
    pub fn proxies(&self) -> TrustedProxies {
        TrustedProxies {
            trusted: self.trusted_proxies.clone(),
            header: self.client_address_header,
        }
    }
}

/// The path of the health check, or `None` if it is off.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct HealthPath(Option<UrlPath>);

impl TryFrom<String> for HealthPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        // An empty environment variable counts as not set, so a word turns it off there.
        if path.is_empty() || path.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        UrlPath::try_from(path)
            .map(|path| Self(Some(path)))
            .map_err(|_| "must be off, or a path such as /healthz of letters, digits and - . _ ~ /")
    }
}

impl HealthPath {
    /// Returns the path, unless it is off.
    #[must_use]
    pub fn get(&self) -> Option<&UrlPath> {
        self.0.as_ref()
    }
}
