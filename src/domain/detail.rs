//! What is told about an image beside its status, each field with the time it was told.
//!
//! A notification tells some fields and is silent on the others, and notifications arrive in any order. A field belongs to
//! the latest notification that told it, a draft counting as earlier than anything else; a row is therefore what one gets by
//! applying all its notifications in that order, whatever the order they came in. Before any notification a field is the
//! app's own, from its `INSERT`.

use super::json::Json;
use super::telling::{Effect, Fullness, Told, compare};
use super::timestamp::Timestamp;

/// The details that one notification tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToldDetails {
    /// The file's name.
    pub filename: Option<String>,
    /// Who uploaded it, as the app told Cloudflare.
    pub creator: Option<String>,
    /// Whether only signed URLs show the image.
    pub require_signed_urls: Option<bool>,
    /// The URLs at which the image is served: an array of texts.
    pub variants: Option<Json>,
    /// The metadata that Cloudflare keeps with the image: an object.
    pub cloudflare_metadata: Option<Json>,
}

/// The details of an image's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDetails {
    /// See [`ToldDetails::filename`].
    pub filename: Detail<String>,
    /// See [`ToldDetails::creator`].
    pub creator: Detail<String>,
    /// See [`ToldDetails::require_signed_urls`].
    pub require_signed_urls: Detail<bool>,
    /// See [`ToldDetails::variants`].
    pub variants: Detail<Json>,
    /// See [`ToldDetails::cloudflare_metadata`].
    pub cloudflare_metadata: Detail<Json>,
}

/// One field of a row, and the time of the notification that told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail<T> {
    /// The field's value.
    pub value: T,
    /// What told it, and when; `None` while the value is the app's own.
    pub told: Option<Standing>,
}

/// Which telling a field's value is from. The greater replaces the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A draft's: what is known before the bytes are there.
    Draft(Timestamp),
    /// Any other notification's.
    Settled(Timestamp),
}

impl ImageDetails {
    /// Takes over what is news, field by field.
    pub(super) fn tell(
        &mut self,
        details: &ToldDetails,
        told: Told,
        standing: fn(Timestamp) -> Standing,
    ) -> Effect {
        [
            self.filename
                .tell(details.filename.as_ref(), told, standing),
            self.creator.tell(details.creator.as_ref(), told, standing),
            self.require_signed_urls
                .tell(details.require_signed_urls.as_ref(), told, standing),
            self.variants
                .tell(details.variants.as_ref(), told, standing),
            self.cloudflare_metadata
                .tell(details.cloudflare_metadata.as_ref(), told, standing),
        ]
        .into_iter()
        .fold(Effect::Duplicate, Effect::and)
    }
}

impl<T> Detail<T> {
    /// A value that no notification has told.
    #[must_use]
    pub fn untold(value: T) -> Self {
        Self { value, told: None }
    }
}

impl<T: Fullness + Clone> Detail<T> {
    fn tell(
        &mut self,
        value: Option<&T>,
        told: Told,
        standing: fn(Timestamp) -> Standing,
    ) -> Effect {
        let Some(value) = value else {
            return Effect::Duplicate;
        };
        let standing = standing(told.at());
        let effect = compare(told, (standing, value), (self.told, &self.value));
        if effect == Effect::Applied {
            self.value = value.clone();
            self.told = Some(standing);
        }
        effect
    }
}
