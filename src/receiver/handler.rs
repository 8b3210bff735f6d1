//! The handler of the webhook route: records an authenticated webhook and responds with its outcome.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::gate::AuthenticatedBody;
use super::state::Receiver;
use super::{payload, response};
use crate::domain::json::Json;
use crate::domain::notification::{Content, InvalidBody, Notification};
use crate::domain::outcome::Outcome;
use crate::store::StoreError;
use crate::web::{Problem, ProblemType};

/// Parses the body, records the notification, and responds with its outcome. An invalid body is recorded too: an operator can
/// then inspect it.
pub(super) async fn receive(
    State(receiver): State<Arc<Receiver>>,
    body: AuthenticatedBody,
) -> Response {
    let (content, payload, error) = match payload::parse(body.bytes(), &receiver.envelope) {
        Ok(parsed) => {
            let ignored = parsed.ignored.count();
            if ignored > 0 {
                receiver.metrics.details_ignored.inc_by(ignored as u64);
                parsed.log_ignored();
            }
            (parsed.content, parsed.payload, None)
        }
        Err(error) => {
            let invalid = InvalidBody {
                body: body.bytes().into(),
                problem: error.to_string(),
            };
            (Content::Invalid(invalid), Json::empty_object(), Some(error))
        }
    };
    let (receipt, large_body_permit) = body.into_parts();
    let notification = Notification {
        content,
        payload,
        received_at: receipt.received_at,
        request_info: receipt.request_info,
    };
    let id = notification.image().cloned();
    let recorded = record(receiver, notification, large_body_permit).await;

    match (error, recorded) {
        (None, Ok(outcome)) => response::of_outcome(outcome, id),
        (None, Err(problem)) => response::of_problem(problem, id),
        (Some(error), Ok(_)) => Problem::from(error).into_response(),
        (Some(error), Err(problem)) => {
            // The sender gets 400 even if the rejection cannot be stored, because the body is invalid in both cases.
            tracing::error!(cause = problem.cause(), "cannot store a rejection");
            Problem::from(error).into_response()
        }
    }
}

/// Records a notification. After the first poll of this future, the notification is recorded even if the client disconnects and
/// the future is dropped.
async fn record(
    receiver: Arc<Receiver>,
    notification: Notification,
    large_body_permit: Option<OwnedSemaphorePermit>,
) -> Result<Outcome, Problem> {
    let notifications = [Arc::new(notification)];
    let recorded = match large_body_permit {
        None => receiver.inbox.record(&notifications).await,
        Some(permit) => record_large_body(permit, receiver, notifications).await?,
    };
    recorded
        .map_err(store_problem)?
        .first()
        .copied()
        .ok_or_else(|| Problem::of(ProblemType::Internal).caused_by(MissingOutcome))
}

/// Records the notification of a large body in a task. The task holds the permit until the notification is recorded, even if the
/// client disconnects.
async fn record_large_body(
    permit: OwnedSemaphorePermit,
    receiver: Arc<Receiver>,
    notifications: [Arc<Notification>; 1],
) -> Result<Result<Vec<Outcome>, StoreError>, Problem> {
    let tasks = receiver.request_tasks.clone();
    let recording = async move {
        let _permit = permit;
        receiver.inbox.record(&notifications).await
    };
    let recording = tasks.spawn(recording.in_current_span());
    recording
        .await
        .map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))
}

fn store_problem(error: StoreError) -> Problem {
    let problem_type = if error.is_overload() {
        ProblemType::Busy
    } else {
        ProblemType::Internal
    };
    Problem::of(problem_type).caused_by(error)
}

#[derive(Debug, thiserror::Error)]
#[error("the inbox returned no outcome for the notification")]
struct MissingOutcome;
