//! `X-Request-Id`: the id that the client or a proxy sent, or a new id. Every response and every log line contains it.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::random;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of an accepted id. Every log line repeats the id.
const MAX_LENGTH: usize = 128;

/// The id of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as a shared reference that outlives the request.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("the id is visible ASCII")
    }
}

/// Sets the id of the request and of its response.
pub(super) async fn set(mut request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(X_REQUEST_ID)
        .filter(|id| is_loggable(id))
        .and_then(|id| id.to_str().ok())
        .map_or_else(new_id, |id| RequestId(id.into()));

    let header = id.header();
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_REQUEST_ID, header);
    response
}

fn is_loggable(id: &HeaderValue) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new_id() -> RequestId {
    let mut text = Uuid::encode_buffer();
    RequestId((&*random::uuid_v7().hyphenated().encode_lower(&mut text)).into())
}
