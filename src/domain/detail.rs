//! What is told about an image beside its status, each field with the time it was told.
//!
//! A notification tells some fields and is silent on the others, and notifications arrive in any order. A field belongs to
//! the latest notification that told it, a draft counting as earlier than anything else; a row is therefore what one gets by
//! applying all its notifications in that order, whatever the order they came in. Before any notification a field is the
//! app's own, from its `INSERT`.

use super::json::Json;
use super::telling::{Effect, Fullness, Told, compare};
use super::timestamp::Timestamp;

/// Declares the details: for each its documentation, name, type and initial value.
macro_rules! details {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $initial:expr;)*) => {
        /// The details that one notification reports.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct ToldDetails {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        /// The values of the details of an image's row.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct DetailValues {
            $($(#[$doc])* pub $name: $type,)*
        }

        /// The details of an image's row, each with the time of the notification that it is from.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ImageDetails {
            $($(#[$doc])* pub $name: Detail<$type>,)*
        }

        impl ImageDetails {
            /// The names of the details, which are their columns.
            pub const NAMES: [&str; COUNT] = [$(stringify!($name)),*];

            /// Returns the details of an image that was just registered.
            #[must_use]
            pub fn initial() -> Self {
                Self { $($name: Detail { value: $initial, told: None },)* }
            }

            /// Returns details with these values, and these times in the order of [`Self::NAMES`].
            #[must_use]
            pub fn new(values: DetailValues, times: [Option<Standing>; COUNT]) -> Self {
                let [$($name),*] = times;
                Self { $($name: Detail { value: values.$name, told: $name },)* }
            }

            /// Returns the time of each detail, in the order of [`Self::NAMES`].
            #[must_use]
            pub fn times(&self) -> [Option<Standing>; COUNT] {
                [$(self.$name.told),*]
            }

            /// Returns the value of each detail, in the order of [`Self::NAMES`].
            #[must_use]
            pub fn values(&self) -> [Value<'_>; COUNT] {
                [$(Value::from(&self.$name.value)),*]
            }

            /// Takes over what is news, field by field.
            pub(super) fn tell(
                &mut self,
                details: &ToldDetails,
                told: Told,
                standing: fn(Timestamp) -> Standing,
            ) -> Effect {
                let effects = [$(self.$name.tell(details.$name.as_ref(), told, standing)),*];
                effects.into_iter().fold(Effect::Duplicate, Effect::and)
            }
        }
    };
}

/// The number of details.
const COUNT: usize = 5;

details! {
    /// The file's name.
    filename: String = String::new();
    /// Who uploaded it, as the app told Cloudflare.
    creator: String = String::new();
    /// Whether only signed URLs show the image.
    require_signed_urls: bool = false;
    /// The URLs at which the image is served: an array of texts.
    variants: Json = Json::empty_array();
    /// The metadata that Cloudflare keeps with the image: an object.
    cloudflare_metadata: Json = Json::empty_object();
}

/// A field's value, as events and commands show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// Yes or no.
    Bool(bool),
    /// A time, or none.
    Time(Option<Timestamp>),
    /// An array or an object.
    Json(&'a Json),
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

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<&bool> for Value<'_> {
    fn from(value: &bool) -> Self {
        Self::Bool(*value)
    }
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        Self::Json(json)
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
