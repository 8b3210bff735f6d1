//! One line for each request, with everything that somebody who looks for it knows.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::client::ClientAddress;
use super::problem::{Cause, LoggedProblem};
use super::request_id::RequestId;

/// What a surface adds to the line of its request. It travels beside the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFields {
    /// What the request came to.
    pub(crate) outcome: Option<&'static str>,
    /// Which image it was about.
    pub(crate) image_id: Option<String>,
    /// The level of the line.
    pub(crate) level: LogLevel,
}

/// The level of a line. A server error is always logged as an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// The level of an ordinary request.
    #[default]
    Info,
    /// The level of a successful probe, which comes every few seconds.
    Debug,
}

/// What the log says in the place of a status when there was nobody left to answer; nginx's word for it.
const CLIENT_GONE: u16 = 499;

/// Writes the line when the answer is there, or when the client has gone before that.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let mut line = Line::begin(&request);
    // Whatever else is logged on behalf of the request bears its id too.
    let span = tracing::info_span!("request", request_id = line.request_id());
    let response = next.run(request).instrument(span).await;
    line.is_answered = true;
    line.write(&response);
    response
}

struct Line {
    method: Method,
    uri: Uri,
    request_id: Option<RequestId>,
    client: Option<ClientAddress>,
    started: Instant,
    is_answered: bool,
}

impl Line {
    fn begin(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: request.extensions().get().cloned(),
            client: request.extensions().get().copied(),
            started: monotonic_now(),
            is_answered: false,
        }
    }

    fn write(&self, response: &Response) {
        let status = response.status();
        let fields = response
            .extensions()
            .get::<LogFields>()
            .cloned()
            .unwrap_or_default();
        let problem = response.extensions().get::<LoggedProblem>();
        let outcome = fields
            .outcome
            .or(problem.map(|problem| problem.name))
            .unwrap_or("ok");
        let detail = problem.and_then(|problem| problem.detail.as_deref());
        let image_id = fields.image_id.as_deref();
        let (method, path) = (self.method.as_str(), self.uri.path());
        let (request_id, client, duration_ms) = (
            self.request_id(),
            self.client(),
            milliseconds(self.started.elapsed()),
        );
        let status_code = status.as_u16();

        if fields.level == LogLevel::Debug {
            tracing::debug!(
                method,
                path,
                status = status_code,
                outcome,
                duration_ms,
                request_id,
                client,
                "{method} {path} answered {status_code} {outcome}"
            );
        } else if status.is_server_error() {
            let cause = response
                .extensions()
                .get::<Cause>()
                .map(Cause::chain)
                .unwrap_or_default();
            tracing::error!(
                method,
                path,
                status = status_code,
                outcome,
                image_id,
                duration_ms,
                request_id,
                client,
                cause,
                "{method} {path} failed with {status_code}"
            );
        } else {
            tracing::info!(
                method,
                path,
                status = status_code,
                outcome,
                detail,
                image_id,
                duration_ms,
                request_id,
                client,
                "{method} {path} answered {status_code} {outcome}"
            );
        }
    }

    fn request_id(&self) -> &str {
        self.request_id
            .as_ref()
            .map(RequestId::as_str)
            .unwrap_or_default()
    }

    fn client(&self) -> Option<tracing::field::DisplayValue<ClientAddress>> {
        self.client.map(tracing::field::display)
    }
}

impl Drop for Line {
    /// The server drops a request whose client has gone. What was recorded by then is recorded.
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let (method, path) = (self.method.as_str(), self.uri.path());
        tracing::info!(
            method,
            path,
            status = CLIENT_GONE,
            outcome = "client-gone",
            duration_ms = milliseconds(self.started.elapsed()),
            request_id = self.request_id(),
            client = self.client(),
            "{method} {path} was left by its client"
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a request took is no product behaviour, and needs a clock that nobody sets"
)]
fn monotonic_now() -> Instant {
    Instant::now()
}

/// Milliseconds with three digits behind the point.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
