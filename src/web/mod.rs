//! The common base of both HTTP listeners: serving, middleware, client addresses and problem documents.
//!
//! ```text
//! serve ──► request_id ──► access_log ──► catch panics ──► the listener's router ──► problem
//! ```

mod access_log;
mod client;
mod problem;
mod request_id;
mod serve;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config_types::{Bounded, ListenAddress, Networks, Seconds};
use client::ForwardedHeader;

pub use access_log::LineLimiter;
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
    /// The maximum size of a body.
    pub body_limit_bytes: Bounded<1, 67_108_864>,
    /// The time limit for the head of the first request on a connection, and for the body of each request.
    pub read_timeout_secs: Seconds<1, 300>,
    /// The time limit for an idle connection.
    pub keep_alive_secs: Seconds<1, 3600>,
    /// The maximum number of simultaneous connections.
    pub max_connections: Bounded<1, 1_000_000>,
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

/// Wraps a router in the middleware of every listener. The limiter applies to its access log. The last layer is the outermost.
pub fn with_middleware(router: Router, log_limiter: Arc<LineLimiter>) -> Router {
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn_with_state(log_limiter, access_log::log))
        .layer(from_fn(request_id::set))
}

async fn no_such_route() -> Problem {
    Problem::of(ProblemType::NoSuchRoute)
}

async fn method_not_allowed() -> Problem {
    Problem::of(ProblemType::MethodNotAllowed)
}

/// Returns a 500 response. The panic hook has logged the panic and its location.
fn answer_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    Problem::of(ProblemType::Internal).into_response()
}
