//! A server that gives out tokens after RFC 6749, section 4.4, and is strict about how it is asked.

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

/// A running token server. Its tokens are `token-1`, `token-2`, and so on.
pub(crate) struct TokenServer {
    address: SocketAddr,
    state: Arc<Mutex<Inner>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    given: usize,
    expires_in: Option<String>,
    refuses: bool,
    waits: Duration,
}

impl TokenServer {
    pub(crate) async fn start() -> Self {
        let state = Arc::<Mutex<Inner>>::default();
        let router = Router::new()
            .route("/token", post(give))
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

    /// How many it has given out.
    pub(crate) fn given(&self) -> usize {
        self.state.lock().expect("no panic").given
    }

    /// Whether it answers 503 from now on.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.lock().expect("no panic").refuses = refuses;
    }

    /// How long its tokens hold, as JSON.
    pub(crate) fn expire_in(&self, seconds: &str) {
        self.state.lock().expect("no panic").expires_in = Some(seconds.to_owned());
    }

    /// How long it takes.
    pub(crate) fn wait(&self, time: Duration) {
        self.state.lock().expect("no panic").waits = time;
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn give(
    State(state): State<Arc<Mutex<Inner>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let waits = state.lock().expect("no panic").waits;
    tokio::time::sleep(waits).await;
    let mut state = state.lock().expect("no panic");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if state.refuses {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "SECRET of the server".to_owned(),
        );
    }
    // `me:` and a secret with a colon and a space, each encoded as a form's value is.
    let basic = text("authorization") == Some("Basic bWU6YStzZWNyZXQlM0ElMkI=");
    let form = std::str::from_utf8(&body).expect("a form is text");
    let in_body =
        form == "grant_type=client_credentials&scope=a+b&client_id=me&client_secret=a+secret%3A%2B";
    let is_asked_well = text("content-type") == Some("application/x-www-form-urlencoded")
        && (in_body || (basic && form == "grant_type=client_credentials&scope=a+b"));
    if !is_asked_well {
        return (
            StatusCode::BAD_REQUEST,
            r#"{"error":"invalid_client"}"#.to_owned(),
        );
    }
    state.given += 1;
    let expires = state
        .expires_in
        .as_ref()
        .map(|seconds| format!(r#","expires_in":{seconds}"#))
        .unwrap_or_default();
    let token = format!(
        r#"{{"access_token":"token-{}","token_type":"bearer"{expires}}}"#,
        state.given
    );
    (StatusCode::OK, token)
}
