//! The actions of an operator on images.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{ActionError, Context, raw_json};
use crate::domain::detail::{ImageDetails, Value};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS, is_deeper_than};
use crate::events::FieldValue;
use crate::store::{AddResult, DeleteResult};

/// Inserts the row of an expected upload.
pub(crate) async fn add(context: &Context, image: &NewImage) -> Result<(), ActionError> {
    if !image.cloudflare_id.fits_index() {
        return Err(ActionError::ImageIdTooLong);
    }
    let now = context.clock.now();
    match context.store.image_catalog.add(image, now).await? {
        AddResult::Added => Ok(()),
        AddResult::Exists => Err(ActionError::ImageExists(image.cloudflare_id.clone())),
    }
}

/// Deletes an image's row. Its audit log entries stay. The image at Cloudflare is not touched.
pub(crate) async fn delete(context: &Context, id: &CloudflareId) -> Result<(), ActionError> {
    let now = context.clock.now();
    match context.store.image_catalog.delete(id, now).await? {
        DeleteResult::Deleted => Ok(()),
        DeleteResult::NotFound => Err(ActionError::NoImageToDelete(id.clone())),
    }
}

/// Returns one image.
pub(crate) async fn show(context: &Context, id: &CloudflareId) -> Result<ImageView, ActionError> {
    let image = context.store.image_catalog.find(id).await?;
    let image = image.ok_or_else(|| ActionError::ImageNotFound(id.clone()))?;
    Ok(image.into())
}

/// Returns the images that changed last, the newest change first.
pub(crate) async fn list(
    context: &Context,
    status: Option<Status>,
    limit: u32,
) -> Result<Vec<ImageView>, ActionError> {
    let images = context.store.image_catalog.list(status, limit).await?;
    Ok(images.into_iter().map(ImageView::from).collect())
}

/// Parses the metadata that an app gives a new image.
pub(crate) fn parse_metadata(text: &str) -> Result<Json, InvalidMetadata> {
    if is_deeper_than(text.as_bytes(), MAX_ACCEPTED_LEVELS) {
        return Err(InvalidMetadata::TooDeep);
    }
    let metadata: serde_json::Value =
        serde_json::from_str(text).map_err(InvalidMetadata::NotJson)?;
    if !metadata.is_object() {
        return Err(InvalidMetadata::NotAnObject);
    }
    if contains_nul(&metadata) {
        return Err(InvalidMetadata::ContainsNul);
    }
    Ok(Json::from_canonical(metadata.to_string()))
}

/// The rule that the metadata breaks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidMetadata {
    #[error("must be JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("must have at most {MAX_ACCEPTED_LEVELS} levels of objects and arrays")]
    TooDeep,
    #[error("must be a JSON object")]
    NotAnObject,
    #[error("must not contain U+0000, because Postgres cannot store it")]
    ContainsNul,
}

fn contains_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(contains_nul),
        serde_json::Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || contains_nul(value)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            false
        }
    }
}

/// An image, with fields named after its columns.
#[derive(Debug, Serialize)]
pub(crate) struct ImageView {
    pub(crate) cloudflare_id: String,
    pub(crate) id: String,
    pub(crate) status: &'static str,
    pub(crate) status_at: Option<String>,
    pub(crate) uploaded_at: Option<String>,
    pub(crate) error: String,
    #[serde(flatten)]
    pub(crate) details: DetailsView,
    pub(crate) metadata: Box<RawValue>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

impl From<Image> for ImageView {
    fn from(image: Image) -> Self {
        let state = image.state;
        Self {
            cloudflare_id: image.cloudflare_id.to_string(),
            id: image.id.to_string(),
            status: state.status.name(),
            status_at: state.status_at.map(|time| time.to_string()),
            uploaded_at: state.uploaded_at.map(|time| time.to_string()),
            error: state.error,
            details: DetailsView(state.details),
            metadata: raw_json(image.metadata.as_str()),
            created_at: image.created_at.to_string(),
            updated_at: image.updated_at.to_string(),
        }
    }
}

/// The details of an image, with fields named after their columns.
#[derive(Debug)]
pub(crate) struct DetailsView(pub(crate) ImageDetails);

impl Serialize for DetailsView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = ImageDetails::NAMES.into_iter().zip(self.0.values());
        serializer.collect_map(values.map(|(name, value)| (name, DetailView(value))))
    }
}

/// One detail. Stored JSON is printed unchanged. Text that is not JSON is printed as a string.
struct DetailView<'a>(Value<'a>);

impl Serialize for DetailView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Value::Json(json) = self.0 {
            raw_json(json.as_str()).serialize(serializer)
        } else {
            FieldValue(self.0).serialize(serializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_an_object_without_nul() {
        let rule = |text: &str| parse_metadata(text).err().map(|error| error.to_string());

        assert_eq!(rule(r#"{"album": {"a": [1, null, "b"]}}"#), None);
        let nested = |levels| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        assert_eq!(rule(&nested(100)), None);
        assert_eq!(
            rule(&nested(101)).as_deref(),
            Some("must have at most 100 levels of objects and arrays")
        );
        assert_eq!(rule("[]").as_deref(), Some("must be a JSON object"));
        assert!(rule("nonsense").is_some_and(|rule| rule.starts_with("must be JSON: ")));
        for with_nul in [
            r#"{"a": "\u0000"}"#,
            r#"{"\u0000": 1}"#,
            r#"{"a": [{"b": "c\u0000"}]}"#,
        ] {
            assert!(rule(with_nul).is_some_and(|rule| rule.contains("U+0000")));
        }
    }
}
