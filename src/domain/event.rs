//! A fact in our words, and who wants to hear of it.

use super::detail::{ImageDetails, Value};
use super::image::ImageState;
use super::named::named_enum;

named_enum! {
    /// What happened to a row.
    pub enum EventKind {
        /// We inserted it.
        Created = "created",
        /// We changed it.
        Updated = "updated",
        /// We deleted it.
        Deleted = "deleted",
    }
}

/// What an event is about, under the names that the Django toolkit gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// A row of `cloudflare_images`.
    Image,
    /// A row of `cloudflare_image_logs`.
    ImageLog,
}

impl Model {
    /// Every model.
    pub const ALL: [Self; 2] = [Self::Image, Self::ImageLog];

    /// The app that all models belong to.
    pub const APP: &str = "cloudflare_images";

    /// The model's name within its app.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "CloudflareImage",
            Self::ImageLog => "ImageUploadLog",
        }
    }

    /// App and name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Image => "cloudflare_images.CloudflareImage",
            Self::ImageLog => "cloudflare_images.ImageUploadLog",
        }
    }

    /// The columns of an image that only its events show, in their order. They come last.
    pub const EXTRA_IMAGE_FIELDS: [&str; 12] = [
        "user_id",
        "original_filename",
        "content_type",
        "file_size",
        "metadata",
        "width",
        "height",
        "format",
        "created_at",
        "expires_at",
        "last_referenced_at",
        "updated_at",
    ];

    /// Returns the fields that its events have, in their order.
    #[must_use]
    pub fn fields(self) -> Vec<&'static str> {
        match self {
            Self::Image => ["id", "cloudflare_id"]
                .into_iter()
                .chain(STATUS_FIELDS)
                .chain(ImageDetails::NAMES)
                .chain(Self::EXTRA_IMAGE_FIELDS)
                .collect(),
            Self::ImageLog => vec![
                "id",
                "image_id",
                "cloudflare_id",
                "event_type",
                "message",
                "data",
                "timestamp",
            ],
        }
    }

    /// The columns of its table that nobody is told: what lets whoever has it upload, and what is ours.
    #[must_use]
    pub fn hidden_columns(self) -> &'static [&'static str] {
        match self {
            Self::Image => &["upload_url", "details_at"],
            Self::ImageLog => &[],
        }
    }

    /// The model with this label.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.label() == label)
    }
}

/// Which events an endpoint is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The endpoint's name.
    pub endpoint: String,
    /// The kinds of events.
    pub kinds: Vec<EventKind>,
    /// What they are about.
    pub models: Vec<Model>,
    /// Whether what is earlier about the same image is told first.
    pub ordered: bool,
}

impl Subscription {
    /// Whether an event like this is told.
    #[must_use]
    pub fn wants(&self, model: Model, kind: EventKind) -> bool {
        self.models.contains(&model) && self.kinds.contains(&kind)
    }
}

/// Who is told what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// Those who are told by deliveries.
    pub endpoints: Vec<Subscription>,
    /// The channel on which the database itself says which images changed, if any.
    pub channel: Option<String>,
}

/// A field that has another value than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Its column.
    pub field: &'static str,
    /// What was there.
    pub old: Value<'a>,
    /// What is there now.
    pub new: Value<'a>,
}

/// Returns the fields that differ, in the order of [`fields`].
#[must_use]
pub fn changes<'a>(before: &'a ImageState, after: &'a ImageState) -> Vec<Change<'a>> {
    fields(before)
        .zip(fields(after))
        .filter(|((_, old), (_, new))| old != new)
        .map(|((field, old), (_, new))| Change { field, old, new })
        .collect()
}

/// The columns of an image's status.
const STATUS_FIELDS: [&str; 4] = ["status", "status_at", "uploaded_at", "error"];

/// Returns the fields of an image that notifications change, each with its column's name.
pub fn fields(state: &ImageState) -> impl Iterator<Item = (&'static str, Value<'_>)> {
    let status = [
        Value::Text(state.status.name()),
        Value::Time(state.status_at),
        Value::Time(state.uploaded_at),
        Value::Text(&state.error),
    ];
    let details = ImageDetails::NAMES.into_iter().zip(state.details.values());
    STATUS_FIELDS.into_iter().zip(status).chain(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::image::Status;

    #[test]
    fn changes_contain_only_different_fields() {
        let before = ImageState::registered();
        let mut after = before.clone();
        after.status = Status::Failed;
        "too large".clone_into(&mut after.error);

        let text = Value::Text;
        assert_eq!(
            changes(&before, &after),
            [
                Change {
                    field: "status",
                    old: text("pending"),
                    new: text("failed"),
                },
                Change {
                    field: "error",
                    old: text(""),
                    new: text("too large"),
                },
            ]
        );
        assert_eq!(changes(&after, &after), []);
    }

    #[test]
    fn names_round_trip() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.name()), Some(kind));
        }
        for model in Model::ALL {
            assert_eq!(Model::from_label(model.label()), Some(model));
            assert_eq!(model.label(), format!("{}.{}", Model::APP, model.name()));
        }
        assert_eq!(EventKind::from_name("Created"), None);
        assert_eq!(Model::from_label("CloudflareImage"), None);
    }
}
