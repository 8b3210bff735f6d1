//! The guard: the middleware of every route. It admits a request only with a token of the route's scope.
//!
//! The handler gets the name of the token, and not the token itself.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};

use super::cors;
use super::state::Api;
use super::token::{Scope, TokenName};
use crate::web::{ClientAddress, Problem, ProblemType};

/// Routes POST requests with a token of this scope to a handler, and preflight requests of browsers.
pub(super) fn protect<H, T>(handler: H, scope: Scope, api: &Arc<Api>) -> MethodRouter
where
    H: Handler<T, Arc<Api>>,
    T: 'static,
{
    let guard = Guard {
        api: Arc::clone(api),
        scope,
    };
    let route = post(handler)
        .route_layer(from_fn_with_state(guard, authorize))
        .with_state(Arc::clone(api));
    let origins = &api.allowed_origins;
    if origins.is_empty() {
        return route;
    }
    // A browser sends a preflight request without the token.
    route
        .options(cors::preflight)
        .layer(from_fn_with_state(origins.clone(), cors::add_headers))
}

#[derive(Clone)]
struct Guard {
    api: Arc<Api>,
    scope: Scope,
}

/// The client of a request: the name of its token. Only the guard creates it.
#[derive(Clone)]
pub(super) struct AuthorizedClient(pub(super) TokenName);

impl<S: Sync> FromRequestParts<S> for AuthorizedClient {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, Problem> {
        let client = head.extensions.remove();
        client.ok_or_else(|| Problem::of(ProblemType::Internal).caused_by(GuardBypassed))
    }
}

/// The logged cause when a handler is called without the guard. [`protect`] prevents this.
#[derive(Debug, thiserror::Error)]
#[error("a handler of the API was called for a request that did not pass the guard")]
struct GuardBypassed;

async fn authorize(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let mut response = match guard.check(&request) {
        Ok(name) => {
            request.headers_mut().remove(AUTHORIZATION);
            request.extensions_mut().insert(AuthorizedClient(name));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Guard {
    fn check(&self, request: &Request) -> Result<TokenName, Problem> {
        let limit = &self.api.guess_limit;
        let client = request.extensions().get().map(ClientAddress::ip);
        if let Some(wait) = client.and_then(|client| limit.wait(client)) {
            return Err(Problem::of(ProblemType::RateLimited)
                .detail(
                    "This client has sent too many wrong tokens (api.client_failures_per_minute). \
                     Wait for the time in the header Retry-After.",
                )
                .retry_after(wait));
        }
        let Some(presented) = bearer_token(request.headers()) else {
            return Err(invalid_token());
        };
        let Some(token) = self.api.tokens.find(presented) else {
            if let Some(client) = client {
                limit.count(client);
            }
            return Err(invalid_token());
        };
        if token.scope < self.scope {
            return Err(Problem::of(ProblemType::InsufficientScope).detail(
                "The token has the scope read, and this request needs write. Use another token of api.tokens.",
            ));
        }
        Ok(token.name.clone())
    }
}

fn invalid_token() -> Problem {
    Problem::of(ProblemType::InvalidToken)
        .detail("The request needs the header Authorization: Bearer with a token of api.tokens.")
}

/// Returns the token in the header `Authorization` (RFC 6750, section 2.1).
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}
