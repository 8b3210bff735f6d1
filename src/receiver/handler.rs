//! The handler of the webhook route: records an authenticated webhook and responds with its outcome.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::gate::AuthenticatedBody;
use super::state::Receiver;
use super::{payload, response};
use crate::domain::notification::{Content, Notification};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::store::StoreError;
use crate::web::{Problem, ProblemType};

/// Parses the body, records the notification, and responds with its outcome. An invalid body is recorded too: an operator can
/// then inspect it.
pub(super) async fn receive(
    State(receiver): State<Arc<Receiver>>,
    body: AuthenticatedBody,
) -> Response {
    let interpreted = payload::interpret(body.bytes(), &receiver.envelope);
    let ignored = interpreted.ignored.count();
    if ignored > 0 {
        receiver.metrics.details_ignored.inc_by(ignored as u64);
        interpreted.log_ignored();
    }
    if interpreted.lacks_account {
        tracing::warn!(
            "a notification about an image cannot be read; set cloudflare.account_id and cloudflare.api_token, so the service asks Cloudflare"
        );
    }
    let error = interpreted.error;
    let (receipt, large_body_permit) = body.into_parts();
    let content = match interpreted.content {
        // Anybody could make the service call Cloudflare.
        Content::Hint(hint) if receipt.request_info.scheme.is_none() => {
            Content::Invalid(hint.invalid)
        }
        content => content,
    };
    let notification = Notification {
        content,
        payload: interpreted.payload,
        received_at: receipt.received_at,
        request_info: receipt.request_info,
    };
    let id = notification.image().cloned();
    let recorded = record(receiver, notification, large_body_permit).await;

    match (error, recorded) {
        (Some(error), Ok(Outcome::Rejected(RejectionReason::InvalidPayload))) => {
            Problem::from(error).into_response()
        }
        // A hint has an outcome like any other notification if its image was found.
        (_, Ok(outcome)) => response::of_outcome(outcome, id),
        (None, Err(problem)) => response::of_problem(problem, id),
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
