//! Events on their way into the outbox: the message that each endpoint gets unless its own settings change it.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::batch::LogEntry;
use super::outbox::Notice;
use super::row::StoredImage;
use crate::domain::event::{Change, EventKind, Model, Value, fields};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::timestamp::Timestamp;

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
    /// How that image is now: its row's id and its status. Not of the audit trail.
    now: Option<(Uuid, Status)>,
    /// The message: JSON.
    pub(super) payload: String,
    pub(super) at: Timestamp,
}

impl NewEvent {
    /// An image was inserted, and is like this.
    pub(super) fn image_created(image: &StoredImage, at: Timestamp) -> Self {
        Self::of_image(EventKind::Created, image, None, at)
    }

    /// An image was changed, and is like this.
    pub(super) fn image_updated(
        image: &StoredImage,
        changes: &[Change<'_>],
        at: Timestamp,
    ) -> Self {
        Self::of_image(EventKind::Updated, image, Some(Changes(changes)), at)
    }

    fn of_image(
        kind: EventKind,
        image: &StoredImage,
        changes: Option<Changes<'_>>,
        at: Timestamp,
    ) -> Self {
        let object = ImageObject {
            image,
            updated_at: at,
        };
        let cloudflare_id = Some(image.cloudflare_id.clone());
        Self {
            now: Some((image.id, image.state.status)),
            ..Self::new(kind, Model::Image, cloudflare_id, &object, changes, at)
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
            status: status.as_str(),
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

    /// The audit trail has a new entry.
    pub(super) fn log_created(entry: &LogEntry, at: Timestamp) -> Self {
        let image = entry.image.as_ref();
        let object = LogObject {
            image_id: image.map(|(id, _)| id.to_string()),
            cloudflare_id: image.map(|(_, id)| id.as_str()),
            event_type: entry.event_type,
            message: &entry.message,
            data: raw(&entry.data),
            timestamp: entry.timestamp.to_string(),
        };
        let image = image.map(|(_, id)| id.clone());
        Self::new(
            EventKind::Created,
            Model::ImageLog,
            image,
            &object,
            None,
            at,
        )
    }

    fn new(
        kind: EventKind,
        model: Model,
        image: Option<CloudflareId>,
        object: &impl Serialize,
        changes: Option<Changes<'_>>,
        at: Timestamp,
    ) -> Self {
        let id = format!("evt_{}", Uuid::now_v7().simple());
        let payload = Payload {
            id: &id,
            event: kind.name(),
            timestamp: at.to_string(),
            model: ModelName {
                app: Model::APP,
                name: model.name(),
                label: model.label(),
            },
            object,
            changes,
            user: None,
        };
        let payload = serde_json::to_string(&payload).expect("texts under names are JSON");
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

#[derive(serde::Serialize)]
struct Notification<'a> {
    id: String,
    cloudflare_id: &'a str,
    status: &'a str,
    event_id: &'a str,
}

/// The message, its fields in the order in which people read them.
#[derive(serde::Serialize)]
struct Payload<'a, O> {
    id: &'a str,
    event: &'a str,
    timestamp: String,
    model: ModelName,
    object: &'a O,
    changes: Option<Changes<'a>>,
    /// Whoever changed it: nobody of ours, but Cloudflare.
    user: Option<()>,
}

#[derive(serde::Serialize)]
struct ModelName {
    app: &'static str,
    name: &'static str,
    label: &'static str,
}

struct Changes<'a>(&'a [Change<'a>]);

impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct OldAndNew<'a> {
            old: Told<'a>,
            new: Told<'a>,
        }
        serializer.collect_map(self.0.iter().map(|change| {
            let (old, new) = (Told(change.old), Told(change.new));
            (change.field, OldAndNew { old, new })
        }))
    }
}

struct Told<'a>(Value<'a>);

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Truth(truth) => serializer.serialize_bool(truth),
            Value::Time(time) => time.map(|time| time.to_string()).serialize(serializer),
            Value::Json(json) => raw(json.as_str()).serialize(serializer),
        }
    }
}

/// JSON as it stands; none where it is none, as another program may have written it.
fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

/// A row of `cloudflare_images`: what notifications change, and what the app has put there. All columns but two: `upload_url`, which
/// lets whoever has it upload, and `details_at`, which is ours.
struct ImageObject<'a> {
    image: &'a StoredImage,
    updated_at: Timestamp,
}

impl Serialize for ImageObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let image = self.image;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", &image.id.to_string())?;
        object.serialize_entry("cloudflare_id", image.cloudflare_id.as_str())?;
        for (name, value) in fields(&image.state) {
            object.serialize_entry(name, &Told(value))?;
        }
        let rest: Vec<&RawValue> = image
            .rest
            .as_deref()
            .and_then(|rest| serde_json::from_str(rest).ok())
            .unwrap_or_default();
        let (values, times) = rest.split_at_checked(REST.len()).unwrap_or_default();
        for (column, value) in REST.into_iter().zip(values) {
            object.serialize_entry(column, value)?;
        }
        for (column, value) in REST_TIMES.into_iter().zip(times) {
            match time(value) {
                Some(time) => object.serialize_entry(column, &time.to_string())?,
                None => object.serialize_entry(column, value)?,
            }
        }
        object.serialize_entry("updated_at", &self.updated_at.to_string())?;
        object.end()
    }
}

/// The columns that notifications do not change, in the order of [`rest_columns`].
const REST: [&str; 8] = [
    "user_id",
    "original_filename",
    "content_type",
    "file_size",
    "metadata",
    "width",
    "height",
    "format",
];

/// The times among them, which follow.
const REST_TIMES: [&str; 3] = ["created_at", "expires_at", "last_referenced_at"];

/// The columns of an image that only its events have, as arguments of a function that makes a JSON array of them.
macro_rules! rest_columns {
    ($metadata:literal) => {
        concat!(
            "user_id, original_filename, content_type, file_size, ",
            $metadata,
            ", width, height, format, created_at, expires_at, last_referenced_at"
        )
    };
}
pub(super) use rest_columns;

/// A time as either database writes it into JSON.
fn time(value: &RawValue) -> Option<Timestamp> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    Timestamp::parse_rfc3339(text).ok()
}

#[derive(serde::Serialize)]
struct LogObject<'a> {
    image_id: Option<String>,
    cloudflare_id: Option<&'a str>,
    event_type: &'a str,
    message: &'a str,
    data: Option<&'a RawValue>,
    timestamp: String,
}
