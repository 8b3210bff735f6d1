//! The faults of Cloudflare's API.

use std::future::pending;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::Semaphore;

/// A fault of one call.
#[derive(Debug, Clone)]
pub(crate) enum ApiFault {
    /// An error of Cloudflare: the status, the code and the message.
    Error(u16, i64, &'static str),
    /// A page of HTML with this status.
    Html(u16),
    /// Status 500, and a body that says `"success":true`.
    FailedSuccess,
    /// Too many calls, with this value of `Retry-After`.
    TooManyCalls(Option<u32>),
    /// A redirect.
    Redirect,
    /// JSON that breaks off.
    TruncatedJson,
    /// JSON of 10 MB.
    HugeJson,
    /// A success whose result has another form.
    OtherResult,
    /// No answer.
    NoAnswer,
    /// The head of an answer, and no body.
    NoBody,
    /// Cloudflare does what it is asked to, and the answer is lost.
    LostAnswer,
    /// Cloudflare does what it is asked to, and answers after the permit.
    HeldAnswer(Arc<Semaphore>),
}

impl ApiFault {
    /// Returns whether Cloudflare does what it is asked to.
    pub(super) fn acts_before(&self) -> bool {
        matches!(self, Self::LostAnswer | Self::HeldAnswer(_))
    }

    pub(super) async fn response(self) -> Response<Body> {
        let (status, body) = match self {
            Self::Error(status, code, message) => {
                let errors = json!([{"code": code, "message": message}]);
                let body = json!({"success": false, "errors": errors, "result": null});
                (status, Body::from(body.to_string()))
            }
            Self::Html(status) => (status, "<!doctype html><h1>Oops</h1>".into()),
            Self::FailedSuccess => {
                let body = json!({"success": true, "errors": [], "result": []});
                (500, body.to_string().into())
            }
            Self::TooManyCalls(seconds) => {
                let mut response = Response::builder().status(429);
                if let Some(seconds) = seconds {
                    response = response.header("retry-after", seconds.to_string());
                }
                let body =
                    json!({"success": false, "errors": [{"code": 971, "message": "Please wait"}]});
                return response.body(body.to_string().into()).expect("a response");
            }
            Self::Redirect => {
                let response = Response::builder().status(302);
                let response = response.header("location", "https://attacker.example/");
                return response.body(Body::empty()).expect("a response");
            }
            Self::TruncatedJson => (
                200,
                r#"{"success":true,"errors":[],"result":[{"id":"#.into(),
            ),
            Self::HugeJson => {
                let name = "x".repeat(10_000_000);
                let result = json!([{"id": "1", "name": name}]);
                let body = json!({"success": true, "errors": [], "result": result});
                (200, body.to_string().into())
            }
            Self::OtherResult => {
                let body = json!({"success": true, "errors": [], "result": "done"});
                (200, body.to_string().into())
            }
            Self::NoAnswer => pending().await,
            Self::HeldAnswer(_) => unreachable!("the answer is Cloudflare's own"),
            Self::NoBody => {
                let body = stream::pending::<Result<Bytes, std::io::Error>>();
                (200, Body::from_stream(body))
            }
            Self::LostAnswer => {
                let broken = Err::<Bytes, _>(std::io::Error::other("the connection broke"));
                let body = stream::iter([Ok(Bytes::from_static(b"{")), broken]);
                (200, Body::from_stream(body.boxed()))
            }
        };
        let response = Response::builder().status(status);
        response.body(body).expect("a response")
    }
}
