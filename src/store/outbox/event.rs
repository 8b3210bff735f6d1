//! New rows of `relay_events`.

use uuid::Uuid;

use super::Alert;
use crate::domain::audit::AuditEntry;
use crate::domain::event::{Change, EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::timestamp::Timestamp;
use crate::events::{self, ImageRow};

/// A new row of `relay_events`.
pub(in crate::store) struct NewEvent {
    /// The event's id, which sorts by time.
    pub(in crate::store) id: String,
    /// The event's name: that of an [`EventKind`] or of an alert.
    pub(in crate::store) event: &'static str,
    /// The label of the event's [`Model`], or of an alert.
    pub(in crate::store) model_label: &'static str,
    /// The values that subscriptions match; `None` for an alert, which names its endpoint.
    pub(in crate::store) model_and_kind: Option<(Model, EventKind)>,
    /// The image of the event.
    pub(in crate::store) image: Option<CloudflareId>,
    /// The image row's id and status; the status is `None` after a deletion. Only image events have it.
    image_row: Option<(Uuid, Option<Status>)>,
    /// The payload, as JSON.
    pub(in crate::store) payload: String,
    pub(in crate::store) at: Timestamp,
}

impl NewEvent {
    /// Returns the event of an inserted image.
    pub(in crate::store) fn image_created(image: ImageRow<'_>, at: Timestamp) -> Self {
        let payload = |id: &str| events::image_created(id, image, at);
        Self::of_image(EventKind::Created, image, payload, at)
    }

    /// Returns the event of an inserted image, whose row was read after the insertion.
    pub(in crate::store) fn image_inserted(image: ImageRow<'_>, at: Timestamp) -> Self {
        let payload = |id: &str| events::image_inserted(id, image, at);
        Self::of_image(EventKind::Created, image, payload, at)
    }

    /// Returns the event of a changed image.
    pub(in crate::store) fn image_updated(
        image: ImageRow<'_>,
        changes: &[Change<'_>],
        at: Timestamp,
    ) -> Self {
        let payload = |id: &str| events::image_updated(id, image, changes, at);
        Self::of_image(EventKind::Updated, image, payload, at)
    }

    /// Returns the event of a deleted image.
    pub(in crate::store) fn image_deleted(image: ImageRow<'_>, at: Timestamp) -> Self {
        let payload = |id: &str| events::image_deleted(id, image, at);
        Self::of_image(EventKind::Deleted, image, payload, at)
    }

    fn of_image(
        kind: EventKind,
        image: ImageRow<'_>,
        payload: impl FnOnce(&str) -> String,
        at: Timestamp,
    ) -> Self {
        let id = events::new_id();
        let status = (kind != EventKind::Deleted).then_some(image.state.status);
        Self {
            payload: payload(&id),
            id,
            event: kind.name(),
            model_label: Model::Image.label(),
            model_and_kind: Some((Model::Image, kind)),
            image: Some(image.cloudflare_id.clone()),
            image_row: Some((image.id, status)),
            at,
        }
    }

    /// Returns whether the event is about an image, not about the audit log.
    pub(in crate::store) fn is_image_event(&self) -> bool {
        self.image_row.is_some()
    }

    /// Returns the announcement of the event for Postgres's channel.
    pub(in crate::store) fn announcement(&self) -> Option<String> {
        let ((row_id, status), cloudflare_id) = (self.image_row?, self.image.as_ref()?);
        Some(events::announcement(
            &self.id,
            row_id,
            cloudflare_id,
            status,
        ))
    }

    /// Returns the event of an alert.
    pub(in crate::store) fn alert(alert: &Alert) -> Self {
        Self {
            id: alert.id.clone(),
            event: alert.event,
            model_label: "relay.Delivery",
            model_and_kind: None,
            image: None,
            image_row: None,
            payload: alert.payload.clone(),
            at: alert.at,
        }
    }

    fn log_created(id: String, entry: &AuditEntry, row_id: i64, at: Timestamp) -> Self {
        let payload = events::log_created(&id, entry, row_id, at);
        Self {
            id,
            event: EventKind::Created.name(),
            model_label: Model::ImageLog.label(),
            model_and_kind: Some((Model::ImageLog, EventKind::Created)),
            image: entry.image.as_ref().map(|(_, id)| id.clone()),
            image_row: None,
            payload,
            at,
        }
    }
}

/// An event of a batch, before the batch is written.
pub(in crate::store) enum PendingEvent {
    /// An event about an image.
    Image(NewEvent),
    /// An event about a new audit log entry. Its payload contains the entry's row id, which is known after the insertion. The
    /// event's id is assigned earlier, so the ids sort in the order of the changes.
    AuditLog {
        event_id: String,
        /// The entry's position in the batch, from 0.
        entry_index: usize,
        at: Timestamp,
    },
}

impl PendingEvent {
    /// Returns the pending event about an entry that the batch adds to the audit log.
    pub(in crate::store) fn log_created(entry_index: usize, at: Timestamp) -> Self {
        Self::AuditLog {
            event_id: events::new_id(),
            entry_index,
            at,
        }
    }

    /// Completes the event with the batch's entries and their row ids.
    pub(in crate::store) fn into_event(self, entries: &[AuditEntry], row_ids: &[i64]) -> NewEvent {
        match self {
            Self::Image(event) => event,
            Self::AuditLog {
                event_id,
                entry_index,
                at,
            } => NewEvent::log_created(event_id, &entries[entry_index], row_ids[entry_index], at),
        }
    }
}
