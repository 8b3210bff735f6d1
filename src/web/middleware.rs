//! The middleware of every listener: request ids, the access log, and answers to panics and unknown routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
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

/// Makes the routes answer 503 until `migrated`, on a port that is open before the migrations have run. The tables may lack columns
/// before that.
pub(crate) fn refuse_until(migrated: &Arc<AtomicBool>, routes: Router) -> Router {
    routes.route_layer(from_fn_with_state(Arc::clone(migrated), refuse_before))
}

async fn refuse_before(
    State(migrated): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if migrated.load(Ordering::Acquire) {
        return Ok(next.run(request).await);
    }
    let problem = Problem::of(ProblemType::Busy).caused_by(Migrating);
    Err(problem.detail("The service is starting. Send the request again."))
}

/// The logged cause of a request that arrived before the end of the migrations.
#[derive(Debug, thiserror::Error)]
#[error("the migrations have not ended yet")]
struct Migrating;
