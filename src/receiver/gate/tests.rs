//! The gate in front of a handler. `tests/spec` tests which requests pass it.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::*;
use crate::clock::ManualClock;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::receiver::Settings;
use crate::store::{Inbox, StoreError};
use crate::telemetry::metrics::WebhookMetrics;
use crate::web;

/// The sections of the default configuration for a receiver.
#[derive(Deserialize)]
struct Defaults {
    webhook: Settings,
    server: web::Settings,
}

/// An inbox that is never called.
struct Unreached;

#[async_trait]
impl Inbox for Unreached {
    async fn record(&self, _: &[Arc<Notification>]) -> Result<Vec<Outcome>, StoreError> {
        Err(StoreError::Stopped)
    }
}

/// Returns a receiver with the default settings, which contain no secret.
fn receiver() -> Arc<Receiver> {
    let defaults: Defaults = toml::from_str(include_str!("../../../config/default.toml"))
        .expect("the defaults are valid");
    let clock = ManualClock::at(Timestamp::from_unix_seconds(0).expect("a time"));
    let receiver = Receiver::new(
        &defaults.webhook,
        &defaults.server,
        Arc::new(Unreached),
        Arc::new(clock),
        TaskTracker::new(),
        WebhookMetrics::default(),
    );
    Arc::new(receiver.unwrap_or_else(|invalid| panic!("{} {}", invalid.key, invalid.rule)))
}

async fn post_to(route: MethodRouter) -> Response {
    let request = Request::post("/").body(Body::from("the body"));
    let router = Router::new().route("/", route);
    let response = router.oneshot(request.expect("a request")).await;
    response.unwrap_or_else(|never| match never {})
}

#[tokio::test]
async fn handler_without_gate_never_runs() {
    static HAS_RUN: AtomicBool = AtomicBool::new(false);
    let handler = async |_: AuthenticatedBody| HAS_RUN.store(true, Ordering::Relaxed);

    // The field of `GatedReceiver` is private to the gate. This test can set the field, because `tests` is a child module.
    let response = post_to(post(handler).with_state(GatedReceiver(receiver()))).await;

    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let cause = response.extensions().get::<web::Cause>();
    assert!(cause.is_some(), "the log says why");
    assert!(!HAS_RUN.load(Ordering::Relaxed));
}

#[tokio::test]
async fn handler_behind_gate_gets_body() {
    let handler = async |body: AuthenticatedBody| body.bytes().to_vec();

    let response = post_to(protect(handler, receiver())).await;

    assert_eq!(response.status(), StatusCode::OK);
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(&bytes[..], b"the body");
}
