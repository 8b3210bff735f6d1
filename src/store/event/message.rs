//! A message as JSON: what every event has, and the row that it is about.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::domain::event::{Change, EventKind, Model, Value, fields};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::LogEntry;
use crate::store::row::StoredImage;

/// The message of an event with this id.
pub(super) fn message(
    id: &str,
    (model, kind): (Model, EventKind),
    object: &impl Serialize,
    changes: Option<&[Change<'_>]>,
    at: Timestamp,
) -> String {
    let message = Message {
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
    serde_json::to_string(&message).expect("texts under names are JSON")
}

/// The message, its fields in the order in which people read them.
#[derive(serde::Serialize)]
struct Message<'a, O> {
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
pub(super) struct ImageObject<'a> {
    pub(super) image: &'a StoredImage,
    /// When it was changed, if that is news to its row.
    updated_at: Option<Timestamp>,
}

impl<'a> ImageObject<'a> {
    /// The image as it is from this time on.
    pub(super) fn since(image: &'a StoredImage, at: Timestamp) -> Self {
        let updated_at = Some(at);
        Self { image, updated_at }
    }

    /// The image as its row says that it is.
    pub(super) fn unchanged(image: &'a StoredImage) -> Self {
        let updated_at = None;
        Self { image, updated_at }
    }
}

impl Serialize for ImageObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let image = self.image;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", &image.id.to_string())?;
        object.serialize_entry("cloudflare_id", image.cloudflare_id.as_str())?;
        let told = fields(&image.state);
        let columns = Model::Image.fields().iter().skip(IDS + told.len());
        for (name, value) in told {
            object.serialize_entry(name, &Told(value))?;
        }
        let rest: Vec<&RawValue> = image
            .rest
            .as_deref()
            .and_then(|rest| serde_json::from_str(rest).ok())
            .unwrap_or_default();
        for (column, value) in columns.zip(rest) {
            let news = self.updated_at.filter(|_| *column == "updated_at");
            let is_time = column.ends_with("_at");
            match news.or_else(|| is_time.then(|| time(value)).flatten()) {
                Some(time) => object.serialize_entry(column, &time.to_string())?,
                None => object.serialize_entry(column, value)?,
            }
        }
        object.end()
    }
}

/// How many of its fields are ids; after them come those that notifications tell, and then the rest.
const IDS: usize = 2;

/// The columns of an image that only its events have, as arguments of a function that makes a JSON array of them: the last of
/// [`Model::fields`], in their order.
macro_rules! rest_columns {
    ($metadata:literal) => {
        concat!(
            "user_id, original_filename, content_type, file_size, ",
            $metadata,
            ", width, height, format, created_at, expires_at, last_referenced_at, updated_at"
        )
    };
}
pub(in crate::store) use rest_columns;

/// A time as either database writes it into JSON.
fn time(value: &RawValue) -> Option<Timestamp> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    Timestamp::parse_rfc3339(text).ok()
}

/// An entry of the audit trail.
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
    pub(super) fn of(entry: &'a LogEntry, id: i64) -> Self {
        let image = entry.image.as_ref();
        Self {
            id,
            image_id: image.map(|(id, _)| id.to_string()),
            cloudflare_id: image.map(|(_, id)| id.as_str()),
            event_type: entry.event_type,
            message: &entry.message,
            data: raw(&entry.data),
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

    /// The names in an object, in their order.
    fn names(object: &impl Serialize) -> Vec<String> {
        let text = serde_json::to_string(object).expect("it is JSON");
        let values: HashMap<String, &RawValue> = serde_json::from_str(&text).expect("an object");
        let mut names: Vec<String> = values.into_keys().collect();
        names.sort_by_key(|name| text.find(&format!("\"{name}\":")));
        names
    }

    #[test]
    fn an_object_has_the_fields_that_its_model_is_known_to_have() {
        let image = StoredImage {
            id: uuid::Uuid::nil(),
            cloudflare_id: CloudflareId::parse("image").expect("an id"),
            state: ImageState::registered(),
            rest: Some("[0,1,2,3,4,5,6,7,8,9,10,11]".to_owned()),
        };
        let entry = LogEntry {
            image: None,
            event_type: "webhook_test",
            message: String::new(),
            data: "{}".to_owned(),
            timestamp: Timestamp::from_unix_micros(0).expect("a time"),
        };

        assert_eq!(
            names(&ImageObject::unchanged(&image)),
            Model::Image.fields()
        );
        assert_eq!(names(&LogObject::of(&entry, 1)), Model::ImageLog.fields());
    }
}
