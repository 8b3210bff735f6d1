//! What happens to a verified webhook.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::Receiver;
use super::gate::Verified;
use super::outcome::Outcome;
use super::payload;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Notification};
use crate::web::{Kind, Problem};

/// Parses the body, records what it says, and answers what that came to.
pub(super) async fn receive(State(receiver): State<Arc<Receiver>>, verified: Verified) -> Response {
    let notification =
        match payload::parse(&verified.body, verified.received_at, &receiver.envelope) {
            Ok(notification) => notification,
            Err(error) => return Problem::from(error).into_response(),
        };
    let id = cloudflare_id(&notification);

    match record(receiver, notification, verified.room).await {
        Ok(outcome) => outcome.answer(id),
        Err(problem) => Outcome::failed(problem, id),
    }
}

fn cloudflare_id(notification: &Notification) -> Option<CloudflareId> {
    match &notification.content {
        Content::Report(report) => Some(report.cloudflare_id.clone()),
        Content::TestMessage | Content::OtherProduct => None,
    }
}

/// Hands the notification to a task: the client may go away at any moment, and this future with it.
async fn record(
    receiver: Arc<Receiver>,
    notification: Notification,
    room: Option<OwnedSemaphorePermit>,
) -> Result<Outcome, Problem> {
    let tasks = receiver.tasks.clone();
    let recording = async move {
        let _room = room;
        receiver.inbox.record(&[notification]).await
    };
    let recording = tasks.spawn(recording.in_current_span());

    let internal = || Problem::of(Kind::Internal);
    let recorded = recording
        .await
        .map_err(|error| internal().because(error))?
        .map_err(|error| internal().because(error))?;
    recorded
        .first()
        .copied()
        .map(Outcome::of)
        .ok_or_else(|| internal().because(NoResult))
}

/// The inbox broke its promise of one result for each notification.
#[derive(Debug, thiserror::Error)]
#[error("the inbox returned no result for the notification")]
struct NoResult;
