//! The middleware of every listener: request ids, the access log, and answers to panics and unknown routes.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::access_log::{self, LineLimiter};
use super::problem::{Problem, ProblemType};
use super::request_id;

/// Wraps a router in the middleware of every listener, and answers requests without a route.
pub fn with_middleware(router: Router, log_limiter: Arc<LineLimiter>) -> Router {
    let router = router
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed);
    with_layers(router, log_limiter)
}

/// Wraps a router in the middleware of every listener. The limiter applies to its access log. The last layer is the outermost.
pub(super) fn with_layers(router: Router, log_limiter: Arc<LineLimiter>) -> Router {
    router
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
