//! Reads the body of a request: a JSON object, within a size limit and one deadline.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::state::Limits;
use crate::web::{Problem, ProblemType, drain};

/// The maximum size of a body. The longest fields together have 10 KiB, or 60 KiB if every character is an escape sequence.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The size limit for draining a body that is too large. Most clients read the response only after they have sent the whole body.
const MAX_DRAINED_BYTES: usize = 1024 * 1024;

/// Reads the body of a request.
pub(super) async fn read_object(
    request: Request,
    limits: &Limits,
) -> Result<Map<String, Value>, Problem> {
    let (head, body) = request.into_parts();
    if !is_json(&head.headers) {
        return Err(Problem::of(ProblemType::UnsupportedMediaType)
            .detail("The body must be JSON. Send the header Content-Type: application/json."));
    }
    let bytes = read(&head.headers, body, limits).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Problem::of(ProblemType::InvalidRequest)
            .detail("The body must be a JSON object of at most 128 levels.")),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    let media_type = content_type
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .map(str::trim);
    media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json"))
}

async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let length = headers.get(CONTENT_LENGTH);
    let length: Option<usize> = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES) {
        // A client that expects 100-continue waits for a response before it sends the body.
        if !headers.contains_key(EXPECT) {
            let draining = drain(body, MAX_DRAINED_BYTES);
            limits.cutoff.run_until_cancelled(draining).await;
        }
        return Err(too_large());
    }
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let collecting = timeout(limits.read_timeout, (&mut body).collect());
    match limits.cutoff.run_until_cancelled(collecting).await {
        Some(Ok(Ok(collected))) => Ok(collected.to_bytes()),
        Some(Ok(Err(error))) if error.is::<LengthLimitError>() => Err(too_large()),
        Some(Ok(Err(_))) => Err(Problem::of(ProblemType::InvalidRequest)
            .detail("The body ended before it was complete. Send it again.")),
        Some(Err(_)) => Err(Problem::of(ProblemType::ReadTimeout).detail(format!(
            "The body was not complete within {} s. Send it faster, or raise server.read_timeout_secs.",
            limits.read_timeout.as_secs()
        ))),
        None => Err(Problem::of(ProblemType::Busy)
            .detail("The service is stopping, and the body was not complete. Send it again.")),
    }
}

fn too_large() -> Problem {
    Problem::of(ProblemType::BodyTooLarge).detail(format!(
        "The body has more than {MAX_BODY_BYTES} bytes. Send a smaller body."
    ))
}
