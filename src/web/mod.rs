//! The base of both HTTP surfaces: serving, the middleware, client addresses and problem documents.
//!
//! ```text
//! serve ──► request_id ──► access_log ──► catch panics ──► the surface's router ──► problem
//! ```

mod access_log;
mod client;
mod problem;
mod request_id;
mod serve;

use axum::Router;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config_types::{Bounded, ListenAddress, Networks, Seconds};
use client::ForwardedHeader;

pub(crate) use access_log::{LogFields, LogLevel};
pub(crate) use client::{ClientAddress, TrustedProxies};
pub(crate) use problem::{Cause, Problem, ProblemType};
pub(crate) use request_id::RequestId;
pub(crate) use serve::{Limits, Server};

/// The `server` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address that receives webhooks.
    pub listen: ListenAddress,
    /// The largest body that is read.
    pub body_limit_bytes: Bounded<1, 67_108_864>,
    /// How long a client may take to send its first request's head, and each request's body.
    pub read_timeout_secs: Seconds<1, 300>,
    /// How long an idle connection is kept.
    pub keep_alive_secs: Seconds<1, 3600>,
    /// How many connections are served at once.
    pub max_connections: Bounded<1, 1_000_000>,
    /// The proxies whose forwarding header is used.
    pub trusted_proxies: Networks,
    /// The header in which they forward their client's address.
    pub client_address_header: ForwardedHeader,
}

impl Settings {
    /// Returns the limits of the webhook listener.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections.count(),
            head_timeout: self.read_timeout_secs.seconds(),
            keep_alive: self.keep_alive_secs.seconds(),
        }
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

/// Wraps a surface in the middleware that every surface has. The last one is the outermost.
pub fn with_middleware(surface: Router) -> Router {
    surface
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn(access_log::log))
        .layer(from_fn(request_id::set))
}

async fn no_such_route() -> Problem {
    Problem::of(ProblemType::NoSuchRoute)
}

async fn method_not_allowed() -> Problem {
    Problem::of(ProblemType::MethodNotAllowed)
}

/// Answers 500. The panic hook has logged the panic and its location.
fn answer_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    Problem::of(ProblemType::Internal).into_response()
}
