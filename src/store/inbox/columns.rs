//! The columns of `cloudflare_images`, and their decoding into the domain's types.

use std::fmt;
use std::str::FromStr;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::domain::detail::{DetailTimes, DetailValues, ImageDetails, Precedence};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, ImageState, Status};
use crate::domain::json::Json;
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};
use crate::events::ImageRow;
use crate::store::error::StoreError;

/// The columns of [`ImageState`], as either database returns them: JSON as text.
pub(in crate::store) struct StateColumns {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) cloudflare_id: String,
    pub(in crate::store) status: String,
    pub(in crate::store) status_at: Option<Timestamp>,
    pub(in crate::store) uploaded_at: Option<Timestamp>,
    pub(in crate::store) error: String,
    pub(in crate::store) details: DetailValues,
    pub(in crate::store) details_at: String,
    /// The [`extra_columns`] as a JSON array, if they were read.
    pub(in crate::store) extra_columns: Option<String>,
}

/// The columns of [`Image`].
pub(in crate::store) struct ImageColumns {
    pub(in crate::store) state: StateColumns,
    pub(in crate::store) metadata: String,
    pub(in crate::store) created_at: Option<Timestamp>,
    pub(in crate::store) updated_at: Option<Timestamp>,
}

/// A row of `cloudflare_images`, decoded.
#[derive(Debug, Clone)]
pub(in crate::store) struct StoredImage {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) cloudflare_id: CloudflareId,
    pub(in crate::store) state: ImageState,
    /// See [`StateColumns::extra_columns`].
    pub(in crate::store) extra_columns: Option<String>,
}

impl StoredImage {
    /// Returns the row in the form that events take.
    pub(in crate::store) fn row(&self) -> ImageRow<'_> {
        ImageRow {
            id: self.id,
            cloudflare_id: &self.cloudflare_id,
            state: &self.state,
            extra_columns: self.extra_columns.as_deref(),
        }
    }
}

/// The columns of an image that only events use, as arguments of an SQL function that builds a JSON array. Their order is that of
/// [`Model::EXTRA_IMAGE_FIELDS`](crate::domain::event::Model::EXTRA_IMAGE_FIELDS).
macro_rules! extra_columns {
    ($metadata:literal) => {
        concat!(
            "user_id, original_filename, content_type, file_size, ",
            $metadata,
            ", width, height, format, created_at, expires_at, last_referenced_at, updated_at"
        )
    };
}
pub(in crate::store) use extra_columns;

/// The columns of [`DetailValues`]. `$as_text` is the cast of a JSON column to text, if the database needs one.
macro_rules! detail_columns {
    ($as_text:literal) => {
        concat!(
            "filename, creator, require_signed_urls, variants",
            $as_text,
            ", cloudflare_metadata",
            $as_text
        )
    };
}
pub(in crate::store) use detail_columns;

/// The [`detail_columns`], decoded from a row or from a JSON array.
#[derive(sqlx::FromRow, Deserialize)]
pub(in crate::store) struct DetailColumns {
    filename: String,
    creator: String,
    #[serde(deserialize_with = "bool_from_number")]
    require_signed_urls: bool,
    variants: String,
    cloudflare_metadata: String,
}

impl From<DetailColumns> for DetailValues {
    fn from(columns: DetailColumns) -> Self {
        Self {
            filename: columns.filename,
            creator: columns.creator,
            require_signed_urls: columns.require_signed_urls,
            variants: Json::as_stored(columns.variants),
            cloudflare_metadata: Json::as_stored(columns.cloudflare_metadata),
        }
    }
}

/// Reads a boolean from a number, as SQLite writes it into JSON.
fn bool_from_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(i64::deserialize(deserializer)? != 0)
}

/// The column `details_at`: for each detail, the time of the notification that reported it, in the order of
/// [`ImageDetails::NAMES`].
struct DetailsAt([Option<DetailTime>; ImageDetails::NAMES.len()]);

impl Serialize for DetailsAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let times = ImageDetails::NAMES.into_iter().zip(self.0);
        serializer.collect_map(times.filter_map(|(name, time)| Some((name, time?))))
    }
}

impl<'de> Deserialize<'de> for DetailsAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DetailsAtVisitor)
    }
}

struct DetailsAtVisitor;

impl<'de> Visitor<'de> for DetailsAtVisitor {
    type Value = DetailsAt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DetailsAt, A::Error> {
        let mut times = [None; ImageDetails::NAMES.len()];
        while let Some(DetailPosition(position)) = map.next_key()? {
            match position {
                Some(position) => times[position] = map.next_value()?,
                // A later release may have written details that this one does not know.
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(DetailsAt(times))
    }
}

/// A detail's position in [`ImageDetails::NAMES`]; `None` for an unknown name.
struct DetailPosition(Option<usize>);

impl<'de> Deserialize<'de> for DetailPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DetailPositionVisitor)
    }
}

struct DetailPositionVisitor;

impl Visitor<'_> for DetailPositionVisitor {
    type Value = DetailPosition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a detail")
    }

    fn visit_str<E>(self, name: &str) -> Result<DetailPosition, E> {
        let position = ImageDetails::NAMES
            .into_iter()
            .position(|known| known == name);
        Ok(DetailPosition(position))
    }
}

/// The time of a notification, in microseconds since 1970. If the notification reported a draft, it is `{"draft": …}`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum DetailTime {
    Final(i64),
    Draft { draft: i64 },
}

impl DetailTime {
    fn of(precedence: Precedence) -> Self {
        match precedence {
            Precedence::Final(at) => Self::Final(at.unix_micros()),
            Precedence::Draft(at) => Self::Draft {
                draft: at.unix_micros(),
            },
        }
    }

    fn precedence(self) -> Result<Precedence, InvalidTimestamp> {
        Ok(match self {
            Self::Final(micros) => Precedence::Final(Timestamp::from_unix_micros(micros)?),
            Self::Draft { draft } => Precedence::Draft(Timestamp::from_unix_micros(draft)?),
        })
    }
}

impl StateColumns {
    /// Decodes the columns. An error names the column.
    pub(in crate::store) fn decode(self) -> Result<StoredImage, StoreError> {
        let (id, extra_columns) = (self.id, self.extra_columns);
        let undecodable_column = |column, reason: String| undecodable(column, id, reason);

        let times = decode_details_at(&self.details_at)
            .map_err(|error| undecodable_column("details_at", error.to_string()))?;

        Ok(StoredImage {
            id,
            cloudflare_id: CloudflareId::parse(&self.cloudflare_id)
                .map_err(|error| undecodable_column("cloudflare_id", error.to_string()))?,
            state: ImageState {
                status: Status::from_str(&self.status)
                    .map_err(|error| undecodable_column("status", error.to_string()))?,
                status_at: self.status_at,
                uploaded_at: self.uploaded_at,
                error: self.error,
                details: ImageDetails::new(self.details, times),
            },
            extra_columns,
        })
    }
}

impl ImageColumns {
    /// Decodes the columns. An error names the column.
    pub(in crate::store) fn decode(self) -> Result<Image, StoreError> {
        let stored = self.state.decode()?;
        let id = stored.id;
        let required = |column, time: Option<Timestamp>| {
            time.ok_or_else(|| undecodable(column, id, "must not be NULL".to_owned()))
        };
        Ok(Image {
            id,
            cloudflare_id: stored.cloudflare_id,
            state: stored.state,
            metadata: Json::as_stored(self.metadata),
            created_at: required("created_at", self.created_at)?,
            updated_at: required("updated_at", self.updated_at)?,
        })
    }
}

/// The error for a text that is not a value of the column `details_at`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidDetailsAt {
    /// The text has another form.
    #[error("must map details to times: {0}")]
    Form(#[from] serde_json::Error),
    /// A time is out of range.
    #[error(transparent)]
    Time(#[from] InvalidTimestamp),
}

/// Decodes the column `details_at`. Leaves out details that this release does not know.
pub(crate) fn decode_details_at(text: &str) -> Result<DetailTimes, InvalidDetailsAt> {
    let stored: DetailsAt = serde_json::from_str(text)?;
    let mut times = DetailTimes::default();
    for (time, stored) in times.iter_mut().zip(stored.0) {
        *time = stored.map(DetailTime::precedence).transpose()?;
    }
    Ok(times)
}

/// Encodes the column `details_at`.
pub(crate) fn encode_details_at(details: &ImageDetails) -> String {
    let times = details.times().map(|time| time.map(DetailTime::of));
    serde_json::to_string(&DetailsAt(times)).expect("a map of integers serializes to JSON")
}

/// Returns the canonical form of a stored JSON column. Postgres and other programs format JSON differently.
///
/// Text that is not JSON, or that has a number out of range, becomes an empty text. Any reported value replaces an empty text.
pub(in crate::store) fn canonical_json(stored: &Json) -> Json {
    let value: Result<serde_json::Value, _> = serde_json::from_str(stored.as_str());
    Json::from_canonical(value.map(|value| value.to_string()).unwrap_or_default())
}

/// Returns the error for a column of `cloudflare_images` that cannot be decoded.
pub(in crate::store) fn undecodable(column: &'static str, id: Uuid, reason: String) -> StoreError {
    StoreError::Undecodable {
        table: "cloudflare_images",
        column,
        id: id.to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(details_at: &str) -> Option<Vec<Option<i64>>> {
        let times: DetailsAt = serde_json::from_str(details_at).ok()?;
        let micros = |time: DetailTime| match time {
            DetailTime::Final(micros) | DetailTime::Draft { draft: micros } => micros,
        };
        Some(times.0.into_iter().map(|time| time.map(micros)).collect())
    }

    #[test]
    fn reads_times_of_known_details() {
        let none = [None; ImageDetails::NAMES.len()];
        assert_eq!(times("{}"), Some(none.to_vec()));
        assert_eq!(times(r#"{"filename":null}"#), Some(none.to_vec()));
        assert_eq!(
            times(r#"{"later":{"x":[1]},"creator":{"draft":7},"filename":5}"#),
            Some([&[Some(5), Some(7)], &none[2..]].concat())
        );
        assert_eq!(times(r#"{"filename":"5"}"#), None);
        assert_eq!(times("\"nonsense\""), None);
    }
}
