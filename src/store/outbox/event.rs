//! New rows of `relay_events`.

use uuid::Uuid;

use super::Notice;
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
    /// A name of [`EventKind`], or of a notice.
    pub(in crate::store) event: &'static str,
    /// A label of [`Model`], or of a notice.
    pub(in crate::store) model_label: &'static str,
    /// What subscriptions are matched against. A notice names its endpoint itself.
    pub(in crate::store) model_and_kind: Option<(Model, EventKind)>,
    /// The image that it is about.
    pub(in crate::store) image: Option<CloudflareId>,
    /// The row's id and its status, which is `None` after a deletion. Only for an event about an image's row.
    image_row: Option<(Uuid, Option<Status>)>,
    /// JSON.
    pub(in crate::store) payload: String,
    pub(in crate::store) at: Timestamp,
}

impl NewEvent {
    /// An image was inserted.
    pub(in crate::store) fn image_created(image: ImageRow<'_>, at: Timestamp) -> Self {
        let payload = |id: &str| events::image_created(id, image, at);
        Self::of_image(EventKind::Created, image, payload, at)
    }

    /// An image was changed.
    pub(in crate::store) fn image_updated(
        image: ImageRow<'_>,
        changes: &[Change<'_>],
        at: Timestamp,
    ) -> Self {
        let payload = |id: &str| events::image_updated(id, image, changes, at);
        Self::of_image(EventKind::Updated, image, payload, at)
    }

    /// An image was deleted.
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

    /// Returns whether it is about an image's row, not about the audit log.
    pub(in crate::store) fn is_image_event(&self) -> bool {
        self.image_row.is_some()
    }

    /// Returns what Postgres announces about it on a channel.
    pub(in crate::store) fn announcement(&self) -> Option<String> {
        let ((row_id, status), cloudflare_id) = (self.image_row?, self.image.as_ref()?);
        Some(events::announcement(
            &self.id,
            row_id,
            cloudflare_id,
            status,
        ))
    }

    /// A notice about another endpoint.
    pub(in crate::store) fn alert(alert: &Notice) -> Self {
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
    /// An event about a new entry of the audit log. Its payload has the row's id, which the insertion returns. The event's id is
    /// made before that, so that ids sort in the order of the changes.
    AuditLog {
        event_id: String,
        /// The entry's place in the batch, from 0.
        entry_index: usize,
        at: Timestamp,
    },
}

impl PendingEvent {
    /// An event about this entry of the batch.
    pub(in crate::store) fn log_created(entry_index: usize, at: Timestamp) -> Self {
        Self::AuditLog {
            event_id: events::new_id(),
            entry_index,
            at,
        }
    }

    /// Returns the event, given the batch's entries and their row ids.
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
