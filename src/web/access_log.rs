//! The access log: one line for each request. [`LineLimiter`] limits the lines of refused requests.

mod limiter;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::client::ClientAddress;
use super::problem::{Cause, LoggedProblem};
use super::request_id::RequestId;

pub use limiter::LineLimiter;

/// The maximum length of a logged method or path, in bytes. A client chooses both, and they can be as long as a request's head.
const MAX_LOGGED_BYTES: usize = 200;

/// The fields that a handler adds to the line of its request. They are an extension of the response.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFields {
    /// The outcome, if it is not the name of a problem.
    pub(crate) outcome: Option<&'static str>,
    /// The image that the request is about.
    pub(crate) image_id: Option<String>,
    pub(crate) level: LogLevel,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// The level of an ordinary request. A server error is logged as an error instead.
    #[default]
    Info,
    /// The level of a normal probe. Probes arrive every few seconds.
    Debug,
}

/// The logged status of a request whose client disconnected before the response. nginx uses the same status.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Writes the line when the response is ready, or when the client disconnects before that.
pub(super) async fn log(
    State(limiter): State<Arc<LineLimiter>>,
    request: Request,
    next: Next,
) -> Response {
    let mut line = AccessLine::begin(&request);
    // The span adds the request id to every other line that is logged for the request.
    let span = tracing::info_span!("request", request_id = line.request_id());
    let response = next.run(request).instrument(span).await;
    line.has_response = true;
    if limiter.permits(response.status().as_u16()) {
        line.write(&response);
    }
    response
}

/// The result of a request, for its line.
#[derive(Default)]
struct LoggedResult<'a> {
    status: u16,
    outcome: &'a str,
    detail: Option<&'a str>,
    image_id: Option<&'a str>,
    cause: Option<&'a str>,
}

/// Writes a line at a level. A field without a value is omitted. The message is formatted only if the level is logged.
macro_rules! write_line {
    ($level:ident, $line:ident, $result:ident, $($message:tt)+) => {
        tracing::$level!(
            method = &*cut($line.method.as_str()),
            path = &*cut($line.uri.path()),
            status = $result.status,
            outcome = $result.outcome,
            detail = $result.detail,
            image_id = $result.image_id,
            duration_ms = milliseconds($line.started.elapsed()),
            request_id = $line.request_id(),
            client = $line.client(),
            cause = $result.cause,
            $($message)+
        )
    };
}

/// A request that is in progress, with the data for its line.
struct AccessLine {
    method: Method,
    uri: Uri,
    request_id: Option<RequestId>,
    client: Option<ClientAddress>,
    started: Instant,
    has_response: bool,
}

impl AccessLine {
    fn begin(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: request.extensions().get().cloned(),
            client: request.extensions().get().copied(),
            started: monotonic_now(),
            has_response: false,
        }
    }

    fn write(&self, response: &Response) {
        let extensions = response.extensions();
        let fields = extensions.get::<LogFields>().cloned().unwrap_or_default();
        let problem = extensions.get::<LoggedProblem>();
        let status = response.status().as_u16();
        let outcome = fields.outcome.or(problem.map(|problem| problem.name));
        let outcome = outcome.unwrap_or("ok");
        let mut result = LoggedResult {
            status,
            outcome,
            ..LoggedResult::default()
        };
        match fields.level {
            LogLevel::Debug => write_line!(debug, self, result, "answered {status} {outcome}"),
            LogLevel::Info if response.status().is_server_error() => {
                let cause = extensions.get().map(Cause::chain).unwrap_or_default();
                result.image_id = fields.image_id.as_deref();
                result.cause = Some(&cause);
                write_line!(error, self, result, "failed with {status}");
            }
            LogLevel::Info => {
                result.image_id = fields.image_id.as_deref();
                result.detail = problem.and_then(|problem| problem.detail.as_deref());
                write_line!(info, self, result, "answered {status} {outcome}");
            }
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

impl Drop for AccessLine {
    /// Writes the line of a request that the server drops because its client disconnected. A notification that was recorded before
    /// that stays recorded.
    fn drop(&mut self) {
        if self.has_response {
            return;
        }
        let result = LoggedResult {
            status: CLIENT_CLOSED_REQUEST,
            outcome: "client-gone",
            ..LoggedResult::default()
        };
        write_line!(info, self, result, "abandoned by the client");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a duration needs a monotonic clock, and no product behaviour depends on it"
)]
fn monotonic_now() -> Instant {
    Instant::now()
}

/// Returns a text from the client, cut at [`MAX_LOGGED_BYTES`]. An ellipsis marks the cut.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LOGGED_BYTES {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!(
        "{}…",
        &text[..text.floor_char_boundary(MAX_LOGGED_BYTES)]
    ))
}

/// Returns milliseconds, rounded to three decimals.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
