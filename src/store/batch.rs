//! What a batch of notifications comes to, given the rows it is about. Pure: both backends read, decide here, and write.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::rejection::NewRejection;
use super::row::{StoredImage, canonical};
use crate::domain::detail::Detail;
use crate::domain::id::CloudflareId;
use crate::domain::image::{ImageState, Status};
use crate::domain::json::Json;
use crate::domain::notification::{Content, Notification, Recorded, Report};
use crate::domain::telling::Effect;
use crate::domain::timestamp::Timestamp;
use crate::domain::transition::{Delivery, transition};

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
    pub(super) recorded: Vec<Recorded>,
    /// The rows that are to be rewritten, each once, in its last state.
    pub(super) changed: Vec<ChangedImage>,
    /// The rows for the audit trail, in the order of the notifications.
    pub(super) logs: Vec<LogEntry>,
    /// What is not applied, in the order of the notifications.
    pub(super) rejections: Vec<NewRejection>,
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

/// Decides the notifications one after another, each on the rows as those before it left them.
pub(super) fn decide(notifications: &[Arc<Notification>], known: Known) -> Decision {
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
    let mut rejections = Vec::new();

    for notification in notifications {
        let (result, line) = match &notification.content {
            Content::TestMessage => (
                Recorded::TestMessage,
                Some(Line::of_no_image(
                    "webhook_test",
                    "Cloudflare tested the destination",
                )),
            ),
            Content::OtherProduct => (
                Recorded::OtherProduct,
                Some(Line::of_no_image(
                    "webhook_ignored",
                    "an alert of another Cloudflare product",
                )),
            ),
            Content::Report(report) => match rows.get_mut(&report.cloudflare_id) {
                None => {
                    rejections.push(NewRejection::unknown_image(notification, report));
                    (Recorded::UnknownImage, None)
                }
                Some(row) => {
                    let delivery = delivery(&mut seen, report, notification);
                    let (result, line) = row.record(report, delivery);
                    (result, Some(line))
                }
            },
            Content::Broken(broken) => {
                rejections.push(NewRejection::broken(notification, broken));
                (Recorded::Broken, None)
            }
        };
        recorded.push(result);
        logs.extend(line.map(|line| line.entry(notification)));
    }

    let changed = rows.into_values().filter_map(Row::changed).collect();
    Decision {
        recorded,
        changed,
        logs,
        rejections,
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

/// A row, and what the batch has done to it.
struct Row {
    stored: StoredImage,
    is_new: bool,
    updated_at: Option<Timestamp>,
    tells: Tells,
}

impl Row {
    fn of(stored: StoredImage, inserted: &HashSet<CloudflareId>) -> Self {
        let is_new = inserted.contains(&stored.cloudflare_id);
        Self {
            stored,
            is_new,
            updated_at: None,
            tells: Tells::default(),
        }
    }

    fn record(&mut self, report: &Report, delivery: Delivery) -> (Recorded, Line) {
        let before = self.stored.state.status;
        let details = &mut self.stored.state.details;
        let variants = Comparable::make(&mut details.variants, report.details.variants.is_some());
        let metadata = Comparable::make(
            &mut details.cloudflare_metadata,
            report.details.cloudflare_metadata.is_some(),
        );

        let mut effect = transition(&mut self.stored.state, report, delivery);

        let details = &mut self.stored.state.details;
        self.tells.variants |=
            variants.is_some_and(|variants| variants.was_told(&mut details.variants));
        self.tells.cloudflare_metadata |=
            metadata.is_some_and(|metadata| metadata.was_told(&mut details.cloudflare_metadata));

        let status = self.stored.state.status;
        // That there is such an image is news too.
        if std::mem::take(&mut self.is_new) {
            effect = Effect::Applied;
        }
        if let (Effect::Applied, Delivery::New { received_at }) = (effect, delivery) {
            self.updated_at = Some(received_at);
        }
        let image = Some((self.stored.id, self.stored.cloudflare_id.clone()));
        let line = Line {
            image,
            event_type: event_type(effect),
            message: message(effect, before, status),
        };
        (Recorded::Image { effect, status }, line)
    }

    fn changed(self) -> Option<ChangedImage> {
        let updated_at = self.updated_at?;
        let StoredImage {
            id,
            cloudflare_id,
            state,
        } = self.stored;
        Some(ChangedImage {
            id,
            cloudflare_id,
            state,
            updated_at,
            tells: self.tells,
        })
    }
}

/// A JSON column as it is stored, while its detail holds the canonical form of it to be compared with what is told. Only a
/// column that is told is touched: its canonical form costs time, and is not always to the letter what was there.
struct Comparable {
    stored: Json,
    canonical: Json,
}

impl Comparable {
    fn make(detail: &mut Detail<Json>, is_told: bool) -> Option<Self> {
        is_told.then(|| {
            let canonical = canonical(&detail.value);
            let stored = std::mem::replace(&mut detail.value, canonical.clone());
            Self { stored, canonical }
        })
    }

    /// Whether the telling replaced the value. If not, the stored form is put back.
    fn was_told(self, detail: &mut Detail<Json>) -> bool {
        if detail.value == self.canonical {
            detail.value = self.stored;
            return false;
        }
        true
    }
}

/// What the audit trail says of a notification, beside its payload and its time.
struct Line {
    image: Option<(Uuid, CloudflareId)>,
    event_type: &'static str,
    message: String,
}

impl Line {
    fn of_no_image(event_type: &'static str, message: &str) -> Self {
        Self {
            image: None,
            event_type,
            message: message.to_owned(),
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

fn event_type(effect: Effect) -> &'static str {
    match effect {
        Effect::Applied => "webhook_received",
        Effect::Duplicate => "webhook_duplicate",
        Effect::Stale => "webhook_stale",
    }
}

fn message(effect: Effect, before: Status, after: Status) -> String {
    match effect {
        Effect::Applied if before == after => {
            format!("the image stays {after}; what is known of it changed")
        }
        Effect::Applied => format!("the image went from {before} to {after}"),
        Effect::Duplicate => format!("the image is {after}, as it was told before"),
        Effect::Stale => format!("the image stays {after}: what was told is out of date"),
    }
}
