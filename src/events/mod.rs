//! Events as other apps receive them: their ids, and their JSON.
//!
//! The store writes a payload once, in the transaction of the change, and never changes it: endpoints are sent these bytes, unless
//! their own settings make others of them.

mod payload;

use uuid::Uuid;

use crate::domain::audit::AuditEntry;
use crate::domain::event::{Change, EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::timestamp::Timestamp;
use crate::random;

pub(crate) use payload::FieldValue;
pub(crate) use payload::ImageRow;
use payload::{ImageObject, LogObject, payload_json};

/// Returns an id that no event has had, and that sorts after those before it: `evt_` and a `UUIDv7` in hexadecimal.
#[must_use]
pub(crate) fn new_id() -> String {
    format!("evt_{}", random::uuid_v7().simple())
}

/// Returns the payload of the event that an image was inserted.
#[must_use]
pub(crate) fn image_created(event_id: &str, image: ImageRow<'_>, at: Timestamp) -> String {
    let object = ImageObject::changed(image, at);
    payload_json(
        event_id,
        (Model::Image, EventKind::Created),
        &object,
        None,
        at,
    )
}

/// Returns the payload of the event that an image was changed.
#[must_use]
pub(crate) fn image_updated(
    event_id: &str,
    image: ImageRow<'_>,
    changes: &[Change<'_>],
    at: Timestamp,
) -> String {
    let object = ImageObject::changed(image, at);
    let model_and_kind = (Model::Image, EventKind::Updated);
    payload_json(event_id, model_and_kind, &object, Some(changes), at)
}

/// Returns the payload of the event that an image was deleted. It shows the row as it was.
#[must_use]
pub(crate) fn image_deleted(event_id: &str, image: ImageRow<'_>, at: Timestamp) -> String {
    let object = ImageObject::unchanged(image);
    payload_json(
        event_id,
        (Model::Image, EventKind::Deleted),
        &object,
        None,
        at,
    )
}

/// Returns the payload of the event that the audit log has a new entry, with this row id.
#[must_use]
pub(crate) fn log_created(
    event_id: &str,
    entry: &AuditEntry,
    row_id: i64,
    at: Timestamp,
) -> String {
    let object = LogObject::of(entry, row_id);
    let model_and_kind = (Model::ImageLog, EventKind::Created);
    payload_json(event_id, model_and_kind, &object, None, at)
}

/// Returns what Postgres announces on a channel about an image: JSON of some hundred bytes, at most 4,300, since an id has at most
/// 1,024 characters. `status` is `None` for an image that was deleted.
#[must_use]
pub(crate) fn announcement(
    event_id: &str,
    id: Uuid,
    cloudflare_id: &CloudflareId,
    status: Option<Status>,
) -> String {
    let announcement = Announcement {
        id: id.to_string(),
        cloudflare_id: cloudflare_id.as_str(),
        status: status.map(Status::name),
        event_id,
    };
    serde_json::to_string(&announcement).expect("texts under names are JSON")
}

#[derive(serde::Serialize)]
struct Announcement<'a> {
    id: String,
    cloudflare_id: &'a str,
    status: Option<&'a str>,
    event_id: &'a str,
}
