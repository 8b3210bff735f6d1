//! Events on their way into the outbox: the message that each endpoint gets unless its own settings change it.

mod message;

use serde::Serialize;
use uuid::Uuid;

use super::batch::LogEntry;
use super::outbox::Notice;
use super::row::StoredImage;
use crate::domain::event::{Change, EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::timestamp::Timestamp;
use crate::random;
use message::{ImageObject, LogObject, message};

pub(super) use message::rest_columns;

/// A row for `relay_events`.
pub(super) struct NewEvent {
    /// `evt_` and a `UUIDv7` in hexadecimal: it sorts by time.
    pub(super) id: String,
    /// What happened: a name of [`EventKind`], or a notice's.
    pub(super) event: &'static str,
    /// To what: a label of [`Model`], or a notice's.
    pub(super) label: &'static str,
    /// Who is told is looked up by these; a notice is for who it is for.
    pub(super) about: Option<(Model, EventKind)>,
    /// The image that it is about, if it is about one.
    pub(super) image: Option<CloudflareId>,
    /// How that image is now: its row's id, and its status while there is a row. Not of the audit trail.
    now: Option<(Uuid, Option<Status>)>,
    /// The message: JSON.
    pub(super) payload: String,
    pub(super) at: Timestamp,
}

impl NewEvent {
    /// An image was inserted, and is like this.
    pub(super) fn image_created(image: &StoredImage, at: Timestamp) -> Self {
        Self::of_image(EventKind::Created, &ImageObject::since(image, at), None, at)
    }

    /// An image was changed, and is like this.
    pub(super) fn image_updated(
        image: &StoredImage,
        changes: &[Change<'_>],
        at: Timestamp,
    ) -> Self {
        let object = ImageObject::since(image, at);
        Self::of_image(EventKind::Updated, &object, Some(changes), at)
    }

    /// An image was deleted, and was like this.
    pub(super) fn image_deleted(image: &StoredImage, at: Timestamp) -> Self {
        let object = ImageObject::unchanged(image);
        Self {
            now: Some((image.id, None)),
            ..Self::of_image(EventKind::Deleted, &object, None, at)
        }
    }

    fn of_image(
        kind: EventKind,
        object: &ImageObject<'_>,
        changes: Option<&[Change<'_>]>,
        at: Timestamp,
    ) -> Self {
        let image = object.image;
        let cloudflare_id = Some(image.cloudflare_id.clone());
        Self {
            now: Some((image.id, Some(image.state.status))),
            ..Self::new(
                next_id(),
                kind,
                Model::Image,
                cloudflare_id,
                object,
                changes,
                at,
            )
        }
    }

    /// Whether it is about an image's row, and not about what is kept of it.
    pub(super) fn is_about_how_it_is(&self) -> bool {
        self.now.is_some()
    }

    /// What the database itself says of it: JSON of some hundred bytes, and of 4,300 at the most, since an id has 1,024 characters.
    pub(super) fn notification(&self) -> Option<String> {
        let ((id, status), cloudflare_id) = (self.now?, self.image.as_ref()?);
        let notification = Notification {
            id: id.to_string(),
            cloudflare_id: cloudflare_id.as_str(),
            status: status.map(Status::as_str),
            event_id: &self.id,
        };
        Some(serde_json::to_string(&notification).expect("texts under names are JSON"))
    }

    /// Somebody could not be told.
    pub(super) fn notice(notice: &Notice) -> Self {
        Self {
            id: notice.id.clone(),
            event: notice.event,
            label: "relay.Delivery",
            about: None,
            image: None,
            now: None,
            payload: notice.payload.clone(),
            at: notice.at,
        }
    }

    /// The audit trail has a new entry, under this id.
    fn log_created(event_id: String, entry: &LogEntry, id: i64, at: Timestamp) -> Self {
        let object = LogObject::of(entry, id);
        let image = entry.image.as_ref();
        let image = image.map(|(_, id)| id.clone());
        let (kind, model) = (EventKind::Created, Model::ImageLog);
        Self::new(event_id, kind, model, image, &object, None, at)
    }

    fn new(
        id: String,
        kind: EventKind,
        model: Model,
        image: Option<CloudflareId>,
        object: &impl Serialize,
        changes: Option<&[Change<'_>]>,
        at: Timestamp,
    ) -> Self {
        let payload = message(&id, (model, kind), object, changes, at);
        Self {
            id,
            event: kind.name(),
            label: model.label(),
            about: Some((model, kind)),
            image,
            now: None,
            payload,
            at,
        }
    }
}

/// What happened to one of a batch's rows.
pub(super) enum Happening {
    /// To an image.
    Image(NewEvent),
    /// The audit trail has a new entry. It has its id when it is inserted, and its event is told under an id from before that: ids sort
    /// as what they are about happened.
    Logged {
        event_id: String,
        /// Which of the batch's entries it is, from 0.
        entry: usize,
        at: Timestamp,
    },
}

impl Happening {
    /// The audit trail has a new entry: this one of the batch.
    pub(super) fn logged(entry: usize, at: Timestamp) -> Self {
        let event_id = next_id();
        Self::Logged {
            event_id,
            entry,
            at,
        }
    }

    /// The event, now that each of the batch's entries has an id.
    pub(super) fn into_event(self, entries: &[LogEntry], ids: &[i64]) -> NewEvent {
        match self {
            Self::Image(event) => event,
            Self::Logged {
                event_id,
                entry,
                at,
            } => NewEvent::log_created(event_id, &entries[entry], ids[entry], at),
        }
    }
}

/// An id that no event has had, and that sorts after those before it.
fn next_id() -> String {
    format!("evt_{}", random::uuid_v7().simple())
}

#[derive(serde::Serialize)]
struct Notification<'a> {
    id: String,
    cloudflare_id: &'a str,
    /// None of one that was deleted.
    status: Option<&'a str>,
    event_id: &'a str,
}
