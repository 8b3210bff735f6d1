//! The ids and JSON payloads of events, as other apps receive them.
//!
//! The store writes a payload once, in the transaction of the change, and never changes it. Endpoints receive these bytes, unless
//! their settings filter or transform them.

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

/// Returns a new event id: `evt_` and a `UUIDv7` in hexadecimal. Later ids sort after earlier ones.
#[must_use]
pub(crate) fn new_id() -> String {
    format!("evt_{}", random::uuid_v7().simple())
}

/// Returns the payload of an event about an inserted image.
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

/// Returns the payload of an event about an inserted image, whose row was read after the insertion.
#[must_use]
pub(crate) fn image_inserted(event_id: &str, image: ImageRow<'_>, at: Timestamp) -> String {
    let object = ImageObject::unchanged(image);
    let model_and_kind = (Model::Image, EventKind::Created);
    payload_json(event_id, model_and_kind, &object, None, at)
}

/// Returns the payload of an event about a changed image.
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

/// Returns the payload of an event about a deleted image. It shows the row before the deletion.
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

/// Returns the payload of an event about a new audit log entry with this row id.
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

/// Returns the JSON that Postgres announces on its channel about an image. `status` is `None` for a deleted image.
///
/// It has a few hundred bytes, and at most 4,300: an id has at most 1,024 characters.
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
    serde_json::to_string(&announcement).expect("a struct of texts serializes to JSON")
}

#[derive(serde::Serialize)]
struct Announcement<'a> {
    id: String,
    cloudflare_id: &'a str,
    status: Option<&'a str>,
    event_id: &'a str,
}
