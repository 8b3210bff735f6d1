//! The readiness check: the database is writable, and its tables are up to date.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use serde::Serialize;

use crate::store::{Schema, StoreError};
use crate::telemetry::chain;
use crate::web::Cause;

/// The time limit for the database check. It is shorter than the timeout of most probes, so they receive the reason.
const DEADLINE: Duration = Duration::from_secs(2);

/// The result of the readiness check.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    pub(super) database: Check,
    pub(super) migrations: Check,
    /// The logged cause if the service is not ready.
    pub(super) cause: Option<Cause>,
}

/// One part of the result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A check that several requests wait for.
type SharedCheck = Shared<BoxFuture<'static, Readiness>>;

/// Runs the readiness check, one at a time. Probes that arrive during a check share its result, because any client can send them if
/// one port serves webhooks and probes.
pub(super) struct ReadinessChecker {
    schema: Arc<dyn Schema>,
    /// The check in progress. It ends when no request waits for it.
    running: Mutex<Option<WeakShared<BoxFuture<'static, Readiness>>>>,
}

impl ReadinessChecker {
    pub(super) fn new(schema: Arc<dyn Schema>) -> Self {
        Self {
            schema,
            running: Mutex::default(),
        }
    }

    /// Returns the check in progress, or else starts one.
    pub(super) fn check(&self) -> SharedCheck {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let in_progress = running.as_ref().and_then(WeakShared::upgrade);
        if let Some(check) = in_progress.filter(|check| check.peek().is_none()) {
            return check;
        }
        let check = check(Arc::clone(&self.schema)).boxed().shared();
        *running = check.downgrade();
        check
    }
}

async fn check(schema: Arc<dyn Schema>) -> Readiness {
    match tokio::time::timeout(DEADLINE, pending_migrations(&*schema)).await {
        Ok(Ok(pending)) if pending.is_empty() => Readiness {
            database: Check::passed(),
            migrations: Check::passed(),
            cause: None,
        },
        Ok(Ok(pending)) => {
            let problem = format!("pending migrations: {pending:?}; run `migrate`");
            Readiness {
                database: Check::passed(),
                migrations: Check::failed(problem.clone()),
                cause: Some(Cause::of(NotReady(problem))),
            }
        }
        Ok(Err(error)) => Readiness {
            database: Check::failed(chain(&error)),
            migrations: Check::unknown(),
            cause: Some(Cause::of(error)),
        },
        Err(_) => {
            let problem = format!("no response within {} s", DEADLINE.as_secs());
            Readiness {
                database: Check::failed(problem.clone()),
                migrations: Check::unknown(),
                cause: Some(Cause::of(NotReady(problem))),
            }
        }
    }
}

async fn pending_migrations(schema: &dyn Schema) -> Result<Vec<i64>, StoreError> {
    schema.check_writable().await?;
    schema.pending().await
}

/// The logged cause when the service is not ready for a reason other than an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotReady(String);

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

    fn unknown() -> Self {
        Self::failed("unknown, because the database does not respond".to_owned())
    }
}
