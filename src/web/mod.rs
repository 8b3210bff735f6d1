//! What our HTTP surfaces share: how they are served, which layers they stand behind, and how they say no.
//!
//! ```text
//! serve ──► request_id ──► access_log ──► catch panics ──► a surface's router ──► problem
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

use crate::setting::{Bounded, ListenAddress, Networks};
use client::ForwardedHeader;

pub(crate) use access_log::{LogFields, LogLevel};
pub use client::{ClientAddress, Proxies};
pub(crate) use problem::{Cause, Problem, ProblemType};
pub(crate) use request_id::RequestId;
pub(crate) use serve::{Limits, serve};

/// The `server` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where webhooks are received.
    pub listen: ListenAddress,
    /// The largest body that is read.
    pub body_limit_bytes: Bounded<1, 67_108_864>,
    /// How long a client may take to send its first request's head, and each request's body.
    pub read_timeout_secs: Bounded<1, 300>,
    /// How long a connection is kept on which nothing happens.
    pub keep_alive_secs: Bounded<1, 3600>,
    /// How many connections are served at once.
    pub max_connections: Bounded<1, 1_000_000>,
    /// The proxies whose word on their clients' addresses is taken.
    pub trusted_proxies: Networks,
    /// In which header they tell it.
    pub client_address_header: ForwardedHeader,
}

impl Settings {
    /// Whose word is taken on where a request came from.
    #[must_use]
    pub fn proxies(&self) -> Proxies {
        Proxies {
            trusted: self.trusted_proxies.clone(),
            header: self.client_address_header,
        }
    }
}

/// Puts a surface behind the layers that all of them share. The outermost is the last.
pub fn behind_layers(surface: Router) -> Router {
    surface
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn(access_log::log))
        .layer(from_fn(request_id::set))
}

async fn no_such_route() -> Problem {
    Problem::of(ProblemType::NoSuchRoute)
}

async fn no_such_method() -> Problem {
    Problem::of(ProblemType::MethodNotAllowed)
}

/// The panic itself was logged by the panic hook, with its place.
fn answer_panic(_: Box<dyn std::any::Any + Send>) -> Response {
    Problem::of(ProblemType::Internal).into_response()
}
