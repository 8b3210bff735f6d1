//! Events: published changes of rows, and the subscriptions to them.

use super::detail::{ImageDetails, Value};
use super::image::ImageState;
use super::named::named_enum;

named_enum! {
    /// The kind of change to a row.
    pub enum EventKind {
        /// The service inserted the row.
        Created = "created",
        /// The service changed the row.
        Updated = "updated",
        /// The service deleted the row.
        Deleted = "deleted",
    }
}

/// The table that an event is about. The names are those of the Django toolkit.
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

    /// The name of the app that all models belong to.
    pub const APP: &str = "cloudflare_images";

    /// Returns the model's name within its app.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "CloudflareImage",
            Self::ImageLog => "ImageUploadLog",
        }
    }

    /// Returns the app and the name, joined by a dot.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Image => "cloudflare_images.CloudflareImage",
            Self::ImageLog => "cloudflare_images.ImageUploadLog",
        }
    }

    /// The last fields of an image event, in order. They are columns that [`ImageState`] does not have.
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

    /// Returns the fields of the model's events, in order.
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

    /// Returns the columns that no event has: the upload URL, which is a credential, and an internal column.
    #[must_use]
    pub fn hidden_columns(self) -> &'static [&'static str] {
        match self {
            Self::Image => &["upload_url", "details_at"],
            Self::ImageLog => &[],
        }
    }

    /// Returns the model with this label.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.label() == label)
    }
}

/// The events that an endpoint receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The endpoint's name.
    pub endpoint: String,
    /// The kinds of change.
    pub kinds: Vec<EventKind>,
    /// The models.
    pub models: Vec<Model>,
    /// Whether events about one image are delivered one at a time, in order.
    pub ordered: bool,
}

impl Subscription {
    /// Returns whether the endpoint receives events of this model and kind.
    #[must_use]
    pub fn wants(&self, model: Model, kind: EventKind) -> bool {
        self.models.contains(&model) && self.kinds.contains(&kind)
    }
}

/// The subscriptions of all endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// The endpoints that receive deliveries.
    pub endpoints: Vec<Subscription>,
    /// The Postgres channel on which changed images are announced with NOTIFY, if any.
    pub channel: Option<String>,
}

/// A changed field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The name of the field, which is its column.
    pub field: &'static str,
    /// The value before the change.
    pub old: Value<'a>,
    /// The value after the change.
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

/// Returns the name and value of every field that notifications change.
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
