//! The ops listener: liveness, readiness and metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config_types::ListenAddress;
use crate::store::{Schema, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::{self, Metrics};
use crate::web::{Cause, LogFields, LogLevel};

/// The time limit for the database check. It is shorter than the timeout of most probes, so they receive the reason.
const READINESS_DEADLINE: Duration = Duration::from_secs(2);

/// The path of the readiness probe.
pub(crate) const READINESS_PATH: &str = "/readyz";

/// The `ops` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address for probes and metrics.
    pub listen: ListenAddress,
}

/// The state of the ops listener.
pub(crate) struct Ops {
    pub(crate) schema: Arc<dyn Schema>,
    /// Whether webhooks are accepted without authentication. Readiness then has a warning.
    pub(crate) authentication_disabled: bool,
    /// Cancelled when shutdown begins.
    pub(crate) stopping: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    database: Check,
    migrations: Check,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

#[derive(Serialize)]
struct Check {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Ops {
    /// Returns the routes `/livez`, `/readyz` and `/metrics`.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route(READINESS_PATH, get(readyz))
            .route("/metrics", get(render_metrics))
            .with_state(Arc::new(self))
    }
}

async fn livez() -> Response {
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
    let (database, migrations, cause) =
        match tokio::time::timeout(READINESS_DEADLINE, check(&*ops.schema)).await {
            Ok(Ok(pending)) if pending.is_empty() => (Check::passed(), Check::passed(), None),
            Ok(Ok(pending)) => {
                let problem = format!("pending migrations: {pending:?}; run `migrate`");
                (
                    Check::passed(),
                    Check::failed(problem.clone()),
                    Some(Cause::of(NotReady(problem))),
                )
            }
            Ok(Err(error)) => (
                Check::unreachable(&error),
                Check::unknown(),
                Some(Cause::of(error)),
            ),
            Err(_) => {
                let problem = format!("no response within {} s", READINESS_DEADLINE.as_secs());
                (
                    Check::failed(problem.clone()),
                    Check::unknown(),
                    Some(Cause::of(NotReady(problem))),
                )
            }
        };
    let (code, status, level) = match (ops.stopping.is_cancelled(), &cause) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping", LogLevel::Debug),
        (false, None) => (StatusCode::OK, "ready", LogLevel::Debug),
        (false, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", LogLevel::Info),
    };
    let readiness = Readiness {
        status,
        database,
        migrations,
        warnings: ops.warnings(),
    };
    let mut response = (code, Json(readiness)).into_response();
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

async fn check(schema: &dyn Schema) -> Result<Vec<i64>, StoreError> {
    schema.check_writable().await?;
    schema.pending().await
}

/// The logged cause when the service is not ready for a reason other than an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotReady(String);

impl Ops {
    fn warnings(&self) -> Vec<&'static str> {
        let warning = self
            .authentication_disabled
            .then_some("authentication is disabled because no webhook secret is configured");
        warning.into_iter().collect()
    }
}

impl Check {
    fn passed() -> Self {
        Self {
            ok: true,
            problem: None,
        }
    }

    fn failed(problem: String) -> Self {
        Self {
            ok: false,
            problem: Some(problem),
        }
    }

    fn unreachable(error: &StoreError) -> Self {
        Self::failed(chain(error))
    }

    fn unknown() -> Self {
        Self::failed("unknown, because the database does not respond".to_owned())
    }
}
