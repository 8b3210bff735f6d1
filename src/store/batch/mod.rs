//! What a batch of notifications comes to, given the rows it is about. Pure: both backends read, decide here, and write.

mod row;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::event::Happening;
use super::outlets::Interest;
use super::rejection::NewRejection;
use super::row::StoredImage;
use crate::domain::id::CloudflareId;
use crate::domain::image::{ImageState, Status};
use crate::domain::json::Json;
use crate::domain::notification::{Content, Notification, Report};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::domain::timestamp::Timestamp;
use crate::domain::transition::Delivery;
use row::Row;

/// What the tables hold that a batch is about.
#[derive(Default)]
pub(super) struct Known {
    /// The rows of its images, locked.
    pub(super) images: Vec<StoredImage>,
    /// Those of the images that were inserted for this batch.
    pub(super) inserted: HashSet<CloudflareId>,
    /// Which of its undated notifications the audit trail has already, for the same image.
    pub(super) seen: HashSet<(CloudflareId, Json)>,
}

/// What to write, and what to answer.
pub(super) struct Decision {
    /// One for each notification, in their order.
    pub(super) recorded: Vec<Outcome>,
    /// The rows that are to be rewritten, each once, in its last state.
    pub(super) changed: Vec<ChangedImage>,
    /// The rows for the audit trail, in the order of the notifications.
    pub(super) logs: Vec<LogEntry>,
    /// What is not applied, in the order of the notifications.
    pub(super) rejections: Vec<NewRejection>,
    /// What somebody wants to be told of, in the order in which it happened.
    pub(super) happenings: Vec<Happening>,
}

/// A row of `cloudflare_images` to be rewritten.
pub(super) struct ChangedImage {
    pub(super) id: Uuid,
    pub(super) cloudflare_id: CloudflareId,
    pub(super) state: ImageState,
    pub(super) updated_at: Timestamp,
    /// Whether `variants` and `cloudflare_metadata` were told; they are rewritten only then, so that what another program has
    /// put there stays to the letter.
    tells: Tells,
}

impl ChangedImage {
    /// The new `variants`, if they were told.
    pub(super) fn variants(&self) -> Option<&str> {
        let told = self.tells.variants;
        told.then(|| self.state.details.variants.value.as_str())
    }

    /// The new `cloudflare_metadata`, if it was told.
    pub(super) fn cloudflare_metadata(&self) -> Option<&str> {
        let told = self.tells.cloudflare_metadata;
        told.then(|| self.state.details.cloudflare_metadata.value.as_str())
    }
}

/// Which JSON columns are told.
#[derive(Debug, Clone, Copy, Default)]
struct Tells {
    variants: bool,
    cloudflare_metadata: bool,
}

/// A row for `cloudflare_image_logs`.
pub(super) struct LogEntry {
    pub(super) image: Option<(Uuid, CloudflareId)>,
    pub(super) event_type: &'static str,
    pub(super) message: String,
    /// `{"payload": …}`.
    pub(super) data: String,
    pub(super) timestamp: Timestamp,
}

/// The ids of the images that the notifications are about, sorted, each once.
pub(super) fn cloudflare_ids(notifications: &[Arc<Notification>]) -> Vec<&CloudflareId> {
    let mut ids: Vec<_> = reports(notifications)
        .map(|(report, _)| &report.cloudflare_id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The notifications that say no time of their own. Only by its payload can one of them be known to be a redelivery.
pub(super) fn undated(notifications: &[Arc<Notification>]) -> Vec<(&CloudflareId, &Json)> {
    reports(notifications)
        .filter(|(report, _)| report.reported_at.is_none())
        .map(|(report, notification)| (&report.cloudflare_id, &notification.payload))
        .collect()
}

fn reports(notifications: &[Arc<Notification>]) -> impl Iterator<Item = (&Report, &Notification)> {
    notifications
        .iter()
        .filter_map(|notification| match &notification.content {
            Content::Report(report) => Some((report, &**notification)),
            Content::TestMessage | Content::OtherProduct | Content::Broken(_) => None,
        })
}

/// What the audit trail keeps of a payload.
pub(super) fn log_data(payload: &Json) -> String {
    format!("{{\"payload\":{}}}", payload.as_str())
}

/// Decides the notifications one after another, each on the rows as those before it left them. The rows change at this time, or else
/// when their notifications came.
pub(super) fn decide(
    notifications: &[Arc<Notification>],
    known: Known,
    at: Option<Timestamp>,
    interest: Interest,
) -> Decision {
    let Known {
        images,
        inserted,
        mut seen,
    } = known;
    let mut rows: HashMap<CloudflareId, Row> = images
        .into_iter()
        .map(|image| (image.cloudflare_id.clone(), Row::of(image, &inserted)))
        .collect();
    let mut recorded = Vec::with_capacity(notifications.len());
    let mut logs = Vec::with_capacity(notifications.len());
    let (mut rejections, mut happenings) = (Vec::new(), Vec::new());

    for notification in notifications {
        let at = at.unwrap_or(notification.received_at);
        let (result, line) = match &notification.content {
            Content::TestMessage => (Outcome::Test, Some(Line::new(Outcome::Test, None, None))),
            Content::OtherProduct => (
                Outcome::Ignored,
                Some(Line::new(Outcome::Ignored, None, None)),
            ),
            Content::Report(report) => match rows.get_mut(&report.cloudflare_id) {
                None => {
                    rejections.push(NewRejection::unknown_image(notification, report));
                    (Outcome::Rejected(RejectionReason::UnknownImage), None)
                }
                Some(row) => {
                    let delivery = delivery(&mut seen, report, notification);
                    let (result, line, event) = row.record(report, delivery, at, interest);
                    happenings.extend(event.map(Happening::Image));
                    (result, Some(line))
                }
            },
            Content::Broken(broken) => {
                rejections.push(NewRejection::broken(notification, broken));
                (Outcome::Rejected(RejectionReason::InvalidPayload), None)
            }
        };
        recorded.push(result);
        if let Some(line) = line {
            if interest.is_in_logs() {
                happenings.push(Happening::logged(logs.len(), at));
            }
            logs.push(line.entry(notification));
        }
    }

    let changed = rows.into_values().filter_map(Row::changed).collect();
    Decision {
        recorded,
        changed,
        logs,
        rejections,
        happenings,
    }
}

fn delivery(
    seen: &mut HashSet<(CloudflareId, Json)>,
    report: &Report,
    notification: &Notification,
) -> Delivery {
    let received_at = notification.received_at;
    let is_first = report.reported_at.is_some()
        || seen.insert((report.cloudflare_id.clone(), notification.payload.clone()));
    if is_first {
        Delivery::New { received_at }
    } else {
        Delivery::Again
    }
}

/// What the audit trail says of a notification, beside its payload and its time.
struct Line {
    image: Option<(Uuid, CloudflareId)>,
    event_type: &'static str,
    message: String,
}

impl Line {
    fn new(outcome: Outcome, image: Option<(Uuid, CloudflareId)>, before: Option<Status>) -> Self {
        Self {
            image,
            event_type: outcome.audit_event().unwrap_or_default(),
            message: outcome.audit_message(before),
        }
    }

    fn entry(self, notification: &Notification) -> LogEntry {
        LogEntry {
            image: self.image,
            event_type: self.event_type,
            message: self.message,
            data: log_data(&notification.payload),
            timestamp: notification.received_at,
        }
    }
}

/// Whether an entry of the audit trail is ours: the kinds that are written here. What other programs write there is theirs.
macro_rules! is_of_a_webhook {
    () => {
        "event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale', 'webhook_test', 'webhook_ignored')"
    };
}
pub(super) use is_of_a_webhook;
