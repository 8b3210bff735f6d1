//! The envelope of every answer: `{"success":…,"errors":[{"code":…,"message":…}],"result":…,"result_info":…}`.

use std::time::Duration;

use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ApiError, ApiMessage, ErrorKind};

/// The wait after too many calls if the answer states none. Cloudflare then refuses calls for 5 minutes.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The longest wait that is taken over from an answer.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Cloudflare's codes for a token that it does not accept.
const CODES_OF_BAD_TOKENS: [i64; 4] = [1000, 6003, 6111, 10001];

/// Cloudflare's codes for an address that leads nowhere, for example with a wrong account. That says nothing about an image.
const CODES_OF_UNKNOWN_ROUTES: [i64; 3] = [7000, 7001, 7003];

/// An answer of the server, before it is read.
pub(super) struct RawAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// A page of a list, or a single object.
pub(super) struct Answer<T> {
    pub(super) result: T,
    /// The number of pages, if the answer states it.
    pub(super) pages: Option<u64>,
}

/// Reads an answer. `token` is removed from Cloudflare's messages.
pub(super) fn read<T: DeserializeOwned>(
    action: &'static str,
    answer: &RawAnswer,
    token: &str,
) -> Result<Answer<T>, ApiError> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let envelope = body.as_ref().filter(|body| body.is_object());
    let is_success = answer.status.is_success()
        && envelope.is_some_and(|envelope| envelope["success"] == Value::Bool(true));
    if !is_success {
        return Err(error(action, answer, envelope, token));
    }
    let mut body = body.unwrap_or_default();
    let pages = pages(&body["result_info"]);
    let result = body["result"].take();
    // The error of serde could repeat a part of the answer.
    let result = serde_json::from_value(result)
        .map_err(|_| ApiError::unexpected(action, "the result has another form"))?;
    Ok(Answer { result, pages })
}

/// Returns the number of pages. Some lists state only the number of objects.
fn pages(info: &Value) -> Option<u64> {
    let number = |name: &str| info[name].as_u64();
    number("total_pages").or_else(|| {
        let per_page = number("per_page").filter(|per_page| *per_page > 0)?;
        Some(number("total_count")?.div_ceil(per_page))
    })
}

fn error(
    action: &'static str,
    answer: &RawAnswer,
    envelope: Option<&Value>,
    token: &str,
) -> ApiError {
    let messages = envelope.map(|envelope| messages(&envelope["errors"], token));
    let messages = messages.unwrap_or_default();
    let has_code = |codes: &[i64]| {
        let mut found = messages.iter().filter_map(|message| message.code);
        found.any(|code| codes.contains(&code))
    };
    let status = answer.status;
    let retry_after = answer.retry_after.unwrap_or(DEFAULT_RETRY_AFTER);
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimited {
            retry_after: retry_after.min(MAX_RETRY_AFTER),
        },
        _ if status.is_server_error() => ErrorKind::Unavailable(format!("it answered {status}")),
        _ if status.is_redirection() => {
            ErrorKind::Unexpected(format!("a redirect ({status}); check cloudflare.base_url"))
        }
        _ if envelope.is_none() => ErrorKind::Unexpected(format!("{status} without JSON")),
        StatusCode::UNAUTHORIZED => ErrorKind::Unauthorized,
        _ if has_code(&CODES_OF_UNKNOWN_ROUTES) => ErrorKind::Unexpected(format!(
            "{status}; check cloudflare.account_id and cloudflare.base_url"
        )),
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN if has_code(&CODES_OF_BAD_TOKENS) => {
            ErrorKind::Unauthorized
        }
        StatusCode::FORBIDDEN => ErrorKind::Forbidden,
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::AlreadyExists,
        _ if status.is_client_error() => ErrorKind::Refused,
        _ => ErrorKind::Unexpected(format!("{status} without success")),
    };
    ApiError {
        action,
        kind,
        messages,
    }
}

/// Returns Cloudflare's errors. A code may be text, and the list may be null.
fn messages(errors: &Value, token: &str) -> Vec<ApiMessage> {
    let errors = errors.as_array().map(Vec::as_slice).unwrap_or_default();
    errors
        .iter()
        .map(|error| {
            let code = &error["code"];
            let code = code
                .as_i64()
                .or_else(|| code.as_str().and_then(|code| code.parse().ok()));
            let message = error["message"].as_str().unwrap_or("no message");
            ApiMessage::new(code, message, token)
        })
        .collect()
}
