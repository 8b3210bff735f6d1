//! What happens to a verified webhook.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::gate::Verified;
use super::{Receiver, answer, payload};
use crate::domain::json::Json;
use crate::domain::notification::{Broken, Content, Notification};
use crate::domain::outcome::Outcome;
use crate::store::StoreError;
use crate::web::{Problem, ProblemType};

/// Parses the body, records what it says, and answers what that came to. A body that breaks a rule is recorded too, for somebody to
/// look at.
pub(super) async fn receive(State(receiver): State<Arc<Receiver>>, verified: Verified) -> Response {
    let _in_flight = verified.in_flight;
    let (content, payload, error) = match payload::parse(&verified.body, &receiver.envelope) {
        Ok((content, payload)) => (content, payload, None),
        Err(error) => {
            let broken = Broken {
                body: verified.body[..].into(),
                problem: error.to_string(),
            };
            (Content::Broken(broken), Json::empty_object(), Some(error))
        }
    };
    let notification = Notification {
        content,
        payload,
        received_at: verified.received_at,
        origin: verified.origin,
    };
    let id = notification.image().cloned();
    let recorded = record(receiver, notification, verified.room).await;

    match (error, recorded) {
        (None, Ok(outcome)) => answer::answer(outcome, id),
        (None, Err(problem)) => answer::problem(problem, id),
        (Some(error), Ok(_)) => Problem::from(error).into_response(),
        (Some(error), Err(problem)) => {
            // What is wrong with it stays wrong, whether or not we could write it down.
            tracing::error!(
                cause = problem.cause(),
                "a refused webhook could not be kept"
            );
            Problem::from(error).into_response()
        }
    }
}

/// From its first poll on, the notification is the inbox's: the client may go away at any moment, and this future with it.
async fn record(
    receiver: Arc<Receiver>,
    notification: Notification,
    room: Option<OwnedSemaphorePermit>,
) -> Result<Outcome, Problem> {
    let notifications = [Arc::new(notification)];
    let recorded = match room {
        None => receiver.inbox.record(&notifications).await,
        Some(room) => record_holding(room, receiver, notifications).await?,
    };
    recorded
        .map_err(problem)?
        .first()
        .copied()
        .ok_or_else(|| Problem::of(ProblemType::Internal).caused_by(NoResult))
}

/// A large body keeps its place in memory until it is recorded, whether or not the client waits for that.
async fn record_holding(
    room: OwnedSemaphorePermit,
    receiver: Arc<Receiver>,
    notifications: [Arc<Notification>; 1],
) -> Result<Result<Vec<Outcome>, StoreError>, Problem> {
    let tasks = receiver.tasks.clone();
    let recording = async move {
        let _room = room;
        receiver.inbox.record(&notifications).await
    };
    let recording = tasks.spawn(recording.in_current_span());
    recording
        .await
        .map_err(|error| Problem::of(ProblemType::Internal).caused_by(error))
}

fn problem(error: StoreError) -> Problem {
    let problem_type = if error.is_overload() {
        ProblemType::Busy
    } else {
        ProblemType::Internal
    };
    Problem::of(problem_type).caused_by(error)
}

/// The inbox broke its promise of one result for each notification.
#[derive(Debug, thiserror::Error)]
#[error("the inbox returned no result for the notification")]
struct NoResult;
