//! A server that issues OAuth 2.0 tokens (RFC 6749, section 4.4). It accepts only correct requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::task::JoinHandle;

use super::subscriber::serve;

/// A running token server. Its tokens are `token-1`, `token-2` and so on.
pub(crate) struct TokenServer {
    address: SocketAddr,
    state: Arc<Mutex<Inner>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    issued: usize,
    expires_in: Option<String>,
    token_type: Option<String>,
    /// Fields that a request must have in addition, form-encoded.
    further_fields: String,
    is_unavailable: bool,
    delay: Duration,
}

impl TokenServer {
    pub(crate) async fn start() -> Self {
        let state = Arc::<Mutex<Inner>>::default();
        let router = Router::new()
            .route("/token", post(issue))
            .with_state(Arc::clone(&state));
        let (address, serving) = serve(router).await;
        Self {
            address,
            state,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// Returns the number of issued tokens.
    pub(crate) fn issued(&self) -> usize {
        self.state.lock().expect("no panic").issued
    }

    /// Sets whether it responds with 503.
    pub(crate) fn set_unavailable(&self, is_unavailable: bool) {
        self.state.lock().expect("no panic").is_unavailable = is_unavailable;
    }

    /// Sets the lifetime of its tokens, as JSON.
    pub(crate) fn set_expires_in(&self, seconds: &str) {
        self.state.lock().expect("no panic").expires_in = Some(seconds.to_owned());
    }

    /// Sets the type of its tokens, as JSON.
    pub(crate) fn set_token_type(&self, token_type: &str) {
        self.state.lock().expect("no panic").token_type = Some(token_type.to_owned());
    }

    /// Sets the fields that a request must have in addition, form-encoded: `&audience=x`.
    pub(crate) fn require_fields(&self, fields: &str) {
        fields.clone_into(&mut self.state.lock().expect("no panic").further_fields);
    }

    /// Sets the delay before each response.
    pub(crate) fn set_delay(&self, time: Duration) {
        self.state.lock().expect("no panic").delay = time;
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn issue(
    State(state): State<Arc<Mutex<Inner>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let delay = state.lock().expect("no panic").delay;
    tokio::time::sleep(delay).await;
    let mut state = state.lock().expect("no panic");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if state.is_unavailable {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "SECRET of the server".to_owned(),
        );
    }
    // `me:` and a secret with a space, a colon and a plus sign, form-encoded.
    let basic = text("authorization") == Some("Basic bWU6YStzZWNyZXQlM0ElMkI=");
    let form = std::str::from_utf8(&body).expect("a form is text");
    let fields = format!(
        "grant_type=client_credentials&scope=a+b{}",
        state.further_fields
    );
    let in_body = form == format!("{fields}&client_id=me&client_secret=a+secret%3A%2B");
    let is_valid = text("content-type") == Some("application/x-www-form-urlencoded")
        && (in_body || (basic && form == fields));
    if !is_valid {
        return (
            StatusCode::BAD_REQUEST,
            r#"{"error":"invalid_client"}"#.to_owned(),
        );
    }
    state.issued += 1;
    let expires = state
        .expires_in
        .as_ref()
        .map(|seconds| format!(r#","expires_in":{seconds}"#))
        .unwrap_or_default();
    let token_type = state.token_type.as_deref().unwrap_or("\"bearer\"");
    let token = format!(
        r#"{{"access_token":"token-{}","token_type":{token_type}{expires}}}"#,
        state.issued
    );
    (StatusCode::OK, token)
}
