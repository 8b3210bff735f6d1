//! CORS: the pages of other origins that may send requests from a browser (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, ORIGIN, VARY,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use url::Url;

use crate::config_types::StringList;

/// The headers that a page may send.
const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, x-request-id");

/// The headers of a response that a page may read.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("retry-after, x-request-id");

/// The time for which a browser may remember the answer to a preflight request, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may send requests. Without one, the API has no CORS headers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "StringList")]
pub(super) struct AllowedOrigins(Vec<HeaderValue>);

impl TryFrom<StringList> for AllowedOrigins {
    type Error = &'static str;

    fn try_from(origins: StringList) -> Result<Self, Self::Error> {
        const RULE: &str = "must be origins such as https://app.example, without a path. Name each of them, because * is not allowed.";
        let origins = origins.into_vec();
        let origins = origins.iter().map(|origin| parse(origin).ok_or(RULE));
        origins.collect::<Result<_, _>>().map(Self)
    }
}

/// Parses an origin in the form in which a browser sends it: in lower case, and without the default port.
fn parse(text: &str) -> Option<HeaderValue> {
    let url = Url::parse(text).ok()?;
    let is_web = matches!(url.scheme(), "http" | "https");
    // A URL may have * in its host, but no browser sends such an origin.
    let has_wildcard = url.host_str().is_some_and(|host| host.contains('*'));
    let is_origin = is_web && !has_wildcard && url.origin().ascii_serialization() == text;
    is_origin
        .then(|| HeaderValue::try_from(text).ok())
        .flatten()
}

impl AllowedOrigins {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the origin of a request, if it is allowed.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }
}

/// Answers a preflight request. [`add_headers`] adds the origin, if it is allowed.
pub(super) async fn preflight() -> Response {
    let headers = [
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST"),
        ),
        (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Adds the headers with which a browser lets a page of an allowed origin read the response.
pub(super) async fn add_headers(
    State(origins): State<AllowedOrigins>,
    request: Request,
    next: Next,
) -> Response {
    let origin = origins.allowed(request.headers());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // A cache must not give the response to a page of another origin.
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_has_the_form_of_browsers() {
        for (text, is_valid) in [
            ("https://app.example", true),
            ("http://localhost:3000", true),
            ("https://[::1]:8443", true),
            ("*", false),
            ("null", false),
            ("https://*.example", false),
            ("https://app.example/", false),
            ("https://app.example:443", false),
            ("https://APP.example", false),
            ("https://user@app.example", false),
            ("app.example", false),
            ("file:///x", false),
            ("", false),
        ] {
            assert_eq!(parse(text).is_some(), is_valid, "{text}");
        }
    }
}
