//! The ops listener: liveness, readiness and metrics. Also the health check on the port for webhooks.

mod readiness;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config_types::{ListenAddress, UrlPath};
use crate::store::Schema;
use crate::telemetry::metrics::{self, Metrics};
use crate::web::{LogFields, LogLevel};
use readiness::{Check, Readiness, ReadinessChecker};

/// The path of the readiness probe.
pub(crate) const READINESS_PATH: &str = "/readyz";

const LIVENESS_PATH: &str = "/livez";
const METRICS_PATH: &str = "/metrics";

/// The paths of the ops listener.
pub(crate) const PATHS: [&str; 3] = [LIVENESS_PATH, READINESS_PATH, METRICS_PATH];

/// The `ops` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address for probes and metrics.
    pub listen: ListenAddress,
}

/// The state of the ops listener.
pub(crate) struct Ops {
    checker: ReadinessChecker,
    /// Whether webhooks are accepted without authentication. Readiness then has a warning.
    authentication_disabled: bool,
    /// Cancelled when shutdown begins.
    stopping: CancellationToken,
    metrics: Arc<Metrics>,
}

/// The body of the answer to a readiness probe.
#[derive(Serialize)]
struct Document {
    status: &'static str,
    database: Check,
    migrations: Check,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

impl Ops {
    pub(crate) fn new(
        schema: Arc<dyn Schema>,
        authentication_disabled: bool,
        stopping: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            checker: ReadinessChecker::new(schema),
            authentication_disabled,
            stopping,
            metrics,
        }
    }

    /// Returns the routes `/livez`, `/readyz` and `/metrics`.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route(LIVENESS_PATH, get(ok))
            .route(READINESS_PATH, get(readyz))
            .route(METRICS_PATH, get(render_metrics))
            .with_state(Arc::new(self))
    }
}

/// Returns the route of the health check on the port for webhooks. It does not query the database. All replicas share
/// one database, so a load balancer cannot avoid its outage.
pub(crate) fn health_router(path: &UrlPath) -> Router {
    let routes = path.routes().into_iter();
    routes.fold(Router::new(), |router, path| router.route(&path, get(ok)))
}

async fn ok() -> Response {
    probe_response("ok\n")
}

async fn render_metrics(State(ops): State<Arc<Ops>>) -> Response {
    probe_response((
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        ops.metrics.render(),
    ))
}

/// Returns a response that is logged at debug, because probes arrive every few seconds.
fn probe_response(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    let fields = LogFields {
        level: LogLevel::Debug,
        ..LogFields::default()
    };
    response.extensions_mut().insert(fields);
    response
}

async fn readyz(State(ops): State<Arc<Ops>>) -> Response {
    let Readiness {
        database,
        migrations,
        cause,
    } = ops.checker.check().await;
    let (code, status, level) = match (ops.stopping.is_cancelled(), &cause) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping", LogLevel::Debug),
        (false, None) => (StatusCode::OK, "ready", LogLevel::Debug),
        (false, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", LogLevel::Info),
    };
    let document = Document {
        status,
        database,
        migrations,
        warnings: ops.warnings(),
    };
    let mut response = (code, Json(document)).into_response();
    response.extensions_mut().insert(LogFields {
        outcome: Some(status),
        image_id: None,
        level,
    });
    if let Some(cause) = cause {
        response.extensions_mut().insert(cause);
    }
    response
}

impl Ops {
    fn warnings(&self) -> Vec<&'static str> {
        let warning = self
            .authentication_disabled
            .then_some("authentication is disabled because no webhook secret is configured");
        warning.into_iter().collect()
    }
}
