//! The details of an image: the reported columns that do not belong to the status. Each has the time of its notification.
//!
//! A notification may report only some details, and notifications arrive in any order. Each detail has the value of the latest
//! notification that reported it. A draft counts as earlier than any other notification. So the row does not depend on the order of
//! arrival. Before the first notification, a detail has the value that the app inserted.

use super::json::Json;
use super::precedence::{Effect, EffectiveTime, TieBreak, decide};
use super::timestamp::Timestamp;

/// Declares the details. Each has documentation, a name, a type and an initial value.
macro_rules! details {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $initial:expr;)*) => {
        /// The details that one notification reports.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct ReportedDetails {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl ReportedDetails {
            /// Returns whether each detail is reported, in the order of [`ImageDetails::NAMES`].
            #[must_use]
            pub fn are_reported(&self) -> [bool; COUNT] {
                [$(self.$name.is_some()),*]
            }
        }

        /// The values of the details of an image's row.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct DetailValues {
            $($(#[$doc])* pub $name: $type,)*
        }

        /// The details of an image's row. Each has the time of the notification that reported it.
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
                Self { $($name: Detail { value: $initial, precedence: None },)* }
            }

            /// Creates details from values and times. The times are in the order of [`Self::NAMES`].
            #[must_use]
            pub fn new(values: DetailValues, times: DetailTimes) -> Self {
                let [$($name),*] = times;
                Self { $($name: Detail { value: values.$name, precedence: $name },)* }
            }

            /// Returns the time of each detail, in the order of [`Self::NAMES`].
            #[must_use]
            pub fn times(&self) -> DetailTimes {
                [$(self.$name.precedence),*]
            }

            /// Returns the value of each detail, in the order of [`Self::NAMES`].
            #[must_use]
            pub fn values(&self) -> [Value<'_>; COUNT] {
                [$(Value::from(&self.$name.value)),*]
            }

            /// Replaces each detail for which the notification reports something new.
            pub(super) fn merge(
                &mut self,
                details: &ReportedDetails,
                effective: EffectiveTime,
                precedence: fn(Timestamp) -> Precedence,
            ) -> Effect {
                let effects = [$(self.$name.merge(details.$name.as_ref(), effective, precedence)),*];
                effects.into_iter().fold(Effect::Duplicate, Effect::and)
            }

            /// Merges imported details. A time without a value stands for the initial value. Returns whether a detail changed.
            pub(super) fn merge_imported(&mut self, details: &ReportedDetails, times: &DetailTimes) -> bool {
                let [$($name),*] = *times;
                let initial = Self::initial();
                let changes = [$({
                    let value = details.$name.as_ref();
                    let value = value.or($name.is_some().then_some(&initial.$name.value));
                    self.$name.merge_imported(value, $name)
                }),*];
                changes.contains(&true)
            }
        }
    };
}

/// The number of details.
const COUNT: usize = 5;

/// The time of each detail, in the order of [`ImageDetails::NAMES`].
pub type DetailTimes = [Option<Precedence>; COUNT];

details! {
    /// The file's name.
    filename: String = String::new();
    /// The uploader, as the app names it to Cloudflare.
    creator: String = String::new();
    /// Whether the image is served only at signed URLs.
    require_signed_urls: bool = false;
    /// The URLs at which the image is served: an array of strings.
    variants: Json = Json::empty_array();
    /// The metadata that Cloudflare stores with the image: an object.
    cloudflare_metadata: Json = Json::empty_object();
}

/// The value of a column, as events and commands show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A boolean.
    Bool(bool),
    /// A time, or none.
    Time(Option<Timestamp>),
    /// An array or an object.
    Json(&'a Json),
}

/// One detail of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail<T> {
    /// The value.
    pub value: T,
    /// The kind and time of the notification that reported the value; `None` if an app wrote it.
    pub precedence: Option<Precedence>,
}

/// The kind and time of the notification that reported a detail. A greater precedence replaces a lesser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// A draft. It precedes the upload.
    Draft(Timestamp),
    /// Any other notification.
    Final(Timestamp),
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

impl<T: TieBreak + Clone> Detail<T> {
    fn merge(
        &mut self,
        value: Option<&T>,
        effective: EffectiveTime,
        precedence: fn(Timestamp) -> Precedence,
    ) -> Effect {
        let Some(value) = value else {
            return Effect::Duplicate;
        };
        let precedence = precedence(effective.at());
        let effect = decide(
            effective,
            (precedence, value),
            (self.precedence, &self.value),
        );
        if effect == Effect::Applied {
            self.value = value.clone();
            self.precedence = Some(precedence);
        }
        effect
    }

    /// Replaces the value by an imported one, unless a notification reported a greater one. Returns whether the detail changed.
    fn merge_imported(&mut self, value: Option<&T>, precedence: Option<Precedence>) -> bool {
        let Some(value) = value else {
            return false;
        };
        let wins = match (precedence, self.precedence) {
            // An app wrote both values, so neither is out of date.
            (None, None) => value.tie_break() != self.value.tie_break(),
            _ => (precedence, value.tie_break()) > (self.precedence, self.value.tie_break()),
        };
        if wins {
            self.value = value.clone();
            self.precedence = precedence;
        }
        wins
    }
}
