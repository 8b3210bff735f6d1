//! The plan of a batch: the rows to write, given its notifications and the current rows. This code is pure, so the decisions do
//! not depend on the database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::columns::StoredImage;
use super::image_update::{ChangedImage, ImageUpdate};
use crate::domain::audit::AuditEntry;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Content, Hint, HintedImage, Notification, Report};
use crate::domain::outcome::{Origin, Outcome, RejectionReason};
use crate::domain::timestamp::Timestamp;
use crate::domain::transition::Arrival;
use crate::store::outbox::event::PendingEvent;
use crate::store::outbox::router::WantedEvents;
use crate::store::rejections::NewRejection;

/// The current rows that a batch needs.
#[derive(Default)]
pub(in crate::store) struct Snapshot {
    /// The images of the batch that have a row, locked.
    pub(in crate::store) images: Vec<StoredImage>,
    /// The images whose row was inserted for this batch.
    pub(in crate::store) inserted: HashSet<CloudflareId>,
    /// The reports without a time that the audit log already has for the same image, as pairs of image and payload.
    pub(in crate::store) already_logged: HashSet<(CloudflareId, Json)>,
}

/// The rows to write, and the outcomes.
#[derive(Default)]
pub(in crate::store) struct WritePlan {
    /// The outcome of each notification, in their order.
    pub(in crate::store) outcomes: Vec<Outcome>,
    /// The images to update, each once, in its last state.
    pub(in crate::store) changed: Vec<ChangedImage>,
    /// New entries of the audit log, in the order of the notifications.
    pub(in crate::store) entries: Vec<AuditEntry>,
    /// New rejections, in the order of the notifications.
    pub(in crate::store) rejections: Vec<NewRejection>,
    /// The events that an endpoint wants, in the order of the changes.
    pub(in crate::store) events: Vec<PendingEvent>,
    /// The images that the service looks up at Cloudflare.
    pub(in crate::store) lookups: Vec<CloudflareId>,
}

/// Decides the outcome of each notification, one after another. Each sees the rows as the earlier ones left them. `at` is the time
/// of the changes; `None` means the time of receipt of each notification.
pub(in crate::store) fn decide(
    notifications: &[Arc<Notification>],
    origin: Origin,
    snapshot: Snapshot,
    at: Option<Timestamp>,
    wanted: WantedEvents,
) -> WritePlan {
    let mut images = image_updates(snapshot.images, &snapshot.inserted);
    let mut already_logged = snapshot.already_logged;
    let mut plan = WritePlan {
        outcomes: Vec::with_capacity(notifications.len()),
        entries: Vec::with_capacity(notifications.len()),
        ..WritePlan::default()
    };
    for notification in notifications {
        let at = at.unwrap_or(notification.received_at);
        match &notification.content {
            Content::TestMessage => plan.add_without_image(notification, Outcome::Test, at, wanted),
            Content::OtherAlert => {
                plan.add_without_image(notification, Outcome::Ignored, at, wanted);
            }
            Content::Invalid(invalid) => {
                plan.reject(
                    RejectionReason::InvalidPayload,
                    NewRejection::invalid_body(notification, invalid),
                );
            }
            Content::Hint(hint) => plan.add_hint(notification, hint, &mut images, at, wanted),
            Content::Report(report) => match images.get_mut(&report.cloudflare_id) {
                None => plan.reject(
                    RejectionReason::UnknownImage,
                    NewRejection::unknown_image(notification, &report.cloudflare_id),
                ),
                Some(image) => {
                    let arrival = arrival(&mut already_logged, report, notification);
                    let result = image.apply(report, arrival, at, wanted);
                    plan.events.extend(result.event.map(PendingEvent::Image));
                    let entry = AuditEntry::of(
                        notification,
                        origin,
                        result.outcome,
                        Some(image.ids()),
                        Some(result.status_before),
                    );
                    plan.outcomes.push(result.outcome);
                    plan.add_entry(entry, at, wanted);
                }
            },
        }
    }
    plan.changed = images
        .into_values()
        .filter_map(ImageUpdate::changed)
        .collect();
    plan
}

fn image_updates(
    images: Vec<StoredImage>,
    inserted: &HashSet<CloudflareId>,
) -> HashMap<CloudflareId, ImageUpdate> {
    let updates = images.into_iter().map(|image| {
        let is_new = inserted.contains(&image.cloudflare_id);
        (image.cloudflare_id.clone(), ImageUpdate::of(image, is_new))
    });
    updates.collect()
}

impl WritePlan {
    /// Adds the outcome and the audit log entry of a notification that has no image.
    fn add_without_image(
        &mut self,
        notification: &Notification,
        outcome: Outcome,
        at: Timestamp,
        wanted: WantedEvents,
    ) {
        self.outcomes.push(outcome);
        self.add_entry(
            AuditEntry::of(notification, Origin::Webhook, outcome, None, None),
            at,
            wanted,
        );
    }

    /// Adds the outcome of a hint. Its image is looked up unless its row has a final status.
    fn add_hint(
        &mut self,
        notification: &Notification,
        hint: &Hint,
        images: &mut HashMap<CloudflareId, ImageUpdate>,
        at: Timestamp,
        wanted: WantedEvents,
    ) {
        let id = match &hint.image {
            HintedImage::Named(id) if !images.contains_key(id) => {
                let rejection = NewRejection::unknown_image(notification, id);
                return self.reject(RejectionReason::UnknownImage, rejection);
            }
            HintedImage::Named(id) => Some(id),
            HintedImage::Candidates(candidates) => the_hinted(candidates, images),
        };
        let Some((id, image)) = id.and_then(|id| Some((id, images.get_mut(id)?))) else {
            let rejection = NewRejection::invalid_body(notification, &hint.invalid);
            return self.reject(RejectionReason::InvalidPayload, rejection);
        };
        // A row that was inserted for this hint publishes its event.
        let result = image.apply(&empty_report(id), Arrival::Redelivery, at, wanted);
        self.events.extend(result.event.map(PendingEvent::Image));
        let status = result.status_before;
        let outcome = if status.is_final() {
            Outcome::Duplicate(status)
        } else {
            self.lookups.push(id.clone());
            Outcome::Accepted(status)
        };
        let ids = Some(image.ids());
        let entry = AuditEntry::of(notification, Origin::Webhook, outcome, ids, Some(status));
        self.outcomes.push(outcome);
        self.add_entry(entry, at, wanted);
    }

    fn add_entry(&mut self, entry: Option<AuditEntry>, at: Timestamp, wanted: WantedEvents) {
        if entry.is_some() && wanted.contains_log_created() {
            let event = PendingEvent::log_created(self.entries.len(), at);
            self.events.push(event);
        }
        self.entries.extend(entry);
    }

    fn reject(&mut self, reason: RejectionReason, rejection: NewRejection) {
        self.outcomes.push(Outcome::Rejected(reason));
        self.rejections.push(rejection);
    }
}

/// Returns the only candidate whose row has no final status. If there is none, returns the only candidate with a row.
fn the_hinted<'a>(
    candidates: &'a [CloudflareId],
    images: &HashMap<CloudflareId, ImageUpdate>,
) -> Option<&'a CloudflareId> {
    let only = |may_be_final: bool| {
        let mut found = candidates.iter().filter(|id| {
            let status = images.get(*id).map(ImageUpdate::status);
            status.is_some_and(|status| may_be_final || !status.is_final())
        });
        found.next().map(|first| (first, found.next().is_none()))
    };
    let (id, is_only) = only(false).or_else(|| only(true))?;
    is_only.then_some(id)
}

fn empty_report(id: &CloudflareId) -> Report {
    Report {
        cloudflare_id: id.clone(),
        status: None,
        reported_at: None,
        details: ReportedDetails::default(),
    }
}

/// Returns whether a report arrives for the first time. A report without a time is a redelivery if its payload was logged before.
/// A report with a time always counts as the first: for such a report, the transition compares the times.
fn arrival(
    already_logged: &mut HashSet<(CloudflareId, Json)>,
    report: &Report,
    notification: &Notification,
) -> Arrival {
    let received_at = notification.received_at;
    let is_first = report.reported_at.is_some()
        || already_logged.insert((report.cloudflare_id.clone(), notification.payload.clone()));
    if is_first {
        Arrival::First { received_at }
    } else {
        Arrival::Redelivery
    }
}
