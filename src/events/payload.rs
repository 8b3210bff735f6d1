//! The payload of an event: the fields that all events have, and the row of the event.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::audit::AuditEntry;
use crate::domain::detail::Value;
use crate::domain::event::{Change, EventKind, Model, fields};
use crate::domain::id::CloudflareId;
use crate::domain::image::ImageState;
use crate::domain::timestamp::Timestamp;

/// Returns a payload as JSON.
pub(super) fn payload_json(
    id: &str,
    (model, kind): (Model, EventKind),
    object: &impl Serialize,
    changes: Option<&[Change<'_>]>,
    at: Timestamp,
) -> String {
    let payload = Payload {
        id,
        event: kind.name(),
        timestamp: at.to_string(),
        model: ModelName {
            app: Model::APP,
            name: model.name(),
            label: model.label(),
        },
        object,
        changes: changes.map(Changes),
        user: None,
    };
    serde_json::to_string(&payload).expect("a struct of texts serializes to JSON")
}

/// The payload. Its fields are in the order in which people read them.
#[derive(serde::Serialize)]
struct Payload<'a, O> {
    id: &'a str,
    event: &'a str,
    timestamp: String,
    model: ModelName,
    object: &'a O,
    changes: Option<Changes<'a>>,
    /// The user who changed the row. It is always null, because this service knows no users.
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
            old: FieldValue<'a>,
            new: FieldValue<'a>,
        }
        serializer.collect_map(self.0.iter().map(|change| {
            let (old, new) = (FieldValue(change.old), FieldValue(change.new));
            (change.field, OldAndNew { old, new })
        }))
    }
}

/// A column's value, serialized as in a payload.
pub(crate) struct FieldValue<'a>(pub(crate) Value<'a>);

impl Serialize for FieldValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bool(value) => serializer.serialize_bool(value),
            Value::Time(time) => time.map(|time| time.to_string()).serialize(serializer),
            Value::Json(json) => raw_json(json.as_str()).serialize(serializer),
        }
    }
}

/// Returns stored JSON unchanged; `None` if another program stored text that is not JSON.
fn raw_json(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

/// An image's row, as its events show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageRow<'a> {
    pub id: Uuid,
    pub cloudflare_id: &'a CloudflareId,
    /// The columns that notifications change.
    pub state: &'a ImageState,
    /// The columns that only events use: a JSON array in the order of [`Model::EXTRA_IMAGE_FIELDS`].
    pub extra_columns: Option<&'a str>,
}

/// The JSON object of a row of `cloudflare_images`. Two columns are missing: `upload_url`, which permits an upload, and
/// `details_at`, which is internal.
pub(super) struct ImageObject<'a> {
    image: ImageRow<'a>,
    /// The time of the change, if the row was read before the change.
    updated_at: Option<Timestamp>,
}

impl<'a> ImageObject<'a> {
    /// Returns the object of an image that changed at this time.
    pub(super) fn changed(image: ImageRow<'a>, at: Timestamp) -> Self {
        let updated_at = Some(at);
        Self { image, updated_at }
    }

    /// Returns the object of an unchanged row.
    pub(super) fn unchanged(image: ImageRow<'a>) -> Self {
        let updated_at = None;
        Self { image, updated_at }
    }
}

impl Serialize for ImageObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let image = &self.image;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", &image.id.to_string())?;
        object.serialize_entry("cloudflare_id", image.cloudflare_id.as_str())?;
        for (name, value) in fields(image.state) {
            object.serialize_entry(name, &FieldValue(value))?;
        }
        let extra: Vec<&RawValue> = image
            .extra_columns
            .and_then(|extra| serde_json::from_str(extra).ok())
            .unwrap_or_default();
        for (column, value) in Model::EXTRA_IMAGE_FIELDS.into_iter().zip(extra) {
            let changed_at = self.updated_at.filter(|_| column == "updated_at");
            let is_time = column.ends_with("_at");
            match changed_at.or_else(|| is_time.then(|| parse_time(value)).flatten()) {
                Some(time) => object.serialize_entry(column, &time.to_string())?,
                None => object.serialize_entry(column, value)?,
            }
        }
        object.end()
    }
}

/// Parses a time that either database wrote into JSON.
fn parse_time(value: &RawValue) -> Option<Timestamp> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    Timestamp::parse_rfc3339(text).ok()
}

/// The JSON object of an audit log entry.
#[derive(serde::Serialize)]
pub(super) struct LogObject<'a> {
    id: i64,
    image_id: Option<String>,
    cloudflare_id: Option<&'a str>,
    event_type: &'a str,
    message: &'a str,
    data: Option<&'a RawValue>,
    timestamp: String,
}

impl<'a> LogObject<'a> {
    pub(super) fn of(entry: &'a AuditEntry, id: i64) -> Self {
        let image = entry.image.as_ref();
        Self {
            id,
            image_id: image.map(|(id, _)| id.to_string()),
            cloudflare_id: image.map(|(_, id)| id.as_str()),
            event_type: entry.event_type,
            message: &entry.message,
            data: raw_json(&entry.data),
            timestamp: entry.timestamp.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::domain::id::CloudflareId;
    use crate::domain::image::ImageState;

    /// Returns the names of an object's fields, in order.
    fn names(object: &impl Serialize) -> Vec<String> {
        let text = serde_json::to_string(object).expect("it is JSON");
        let values: HashMap<String, &RawValue> = serde_json::from_str(&text).expect("an object");
        let mut names: Vec<String> = values.into_keys().collect();
        names.sort_by_key(|name| text.find(&format!("\"{name}\":")));
        names
    }

    #[test]
    fn object_has_the_fields_of_its_model() {
        let image = ImageRow {
            id: Uuid::nil(),
            cloudflare_id: &CloudflareId::parse("image").expect("an id"),
            state: &ImageState::registered(),
            extra_columns: Some("[0,1,2,3,4,5,6,7,8,9,10,11]"),
        };
        let entry = AuditEntry {
            image: None,
            event_type: "webhook_test",
            message: String::new(),
            data: "{}".to_owned(),
            timestamp: Timestamp::from_unix_micros(0).expect("a time"),
        };

        assert_eq!(names(&ImageObject::unchanged(image)), Model::Image.fields());
        assert_eq!(names(&LogObject::of(&entry, 1)), Model::ImageLog.fields());
    }
}
