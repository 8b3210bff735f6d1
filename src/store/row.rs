//! Between the columns of `cloudflare_images` and the domain.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StoreError;
use crate::domain::detail::{Detail, ImageDetails, Standing};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, ImageState, Status};
use crate::domain::json::Json;
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};

/// The columns that [`ImageState`] is made of, as either database returns them: JSON as text.
pub(super) struct StateColumns {
    pub(super) id: Uuid,
    pub(super) cloudflare_id: String,
    pub(super) status: String,
    pub(super) status_at: Option<Timestamp>,
    pub(super) uploaded_at: Option<Timestamp>,
    pub(super) error: String,
    pub(super) filename: String,
    pub(super) creator: String,
    pub(super) require_signed_urls: bool,
    pub(super) variants: String,
    pub(super) cloudflare_metadata: String,
    pub(super) details_at: String,
    /// What only its events tell of it, where that was asked for: a JSON array of [`rest_columns`](super::event::rest_columns).
    pub(super) rest: Option<String>,
}

/// The columns that [`Image`] is made of.
pub(super) struct ImageColumns {
    pub(super) state: StateColumns,
    pub(super) metadata: String,
    pub(super) created_at: Option<Timestamp>,
    pub(super) updated_at: Option<Timestamp>,
}

/// A row of `cloudflare_images`, as far as a notification is concerned with it.
#[derive(Debug, Clone)]
pub(super) struct StoredImage {
    pub(super) id: Uuid,
    pub(super) cloudflare_id: CloudflareId,
    pub(super) state: ImageState,
    /// See [`StateColumns::rest`].
    pub(super) rest: Option<String>,
}

/// The column `details_at`: for each detail that a notification has told, which and when.
#[derive(Default, Serialize, Deserialize)]
struct DetailsAt {
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<ToldAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creator: Option<ToldAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    require_signed_urls: Option<ToldAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variants: Option<ToldAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloudflare_metadata: Option<ToldAt>,
}

/// The time of a notification in microseconds since 1970; a draft's as `{"draft": …}`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum ToldAt {
    Settled(i64),
    Draft { draft: i64 },
}

impl ToldAt {
    fn of(standing: Standing) -> Self {
        match standing {
            Standing::Settled(at) => Self::Settled(at.unix_micros()),
            Standing::Draft(at) => Self::Draft {
                draft: at.unix_micros(),
            },
        }
    }

    fn standing(self) -> Result<Standing, InvalidTimestamp> {
        Ok(match self {
            Self::Settled(micros) => Standing::Settled(Timestamp::from_unix_micros(micros)?),
            Self::Draft { draft } => Standing::Draft(Timestamp::from_unix_micros(draft)?),
        })
    }
}

impl StateColumns {
    /// Reads the columns, or says which of them makes no sense.
    pub(super) fn decode(self) -> Result<StoredImage, StoreError> {
        let (id, rest) = (self.id, self.rest);
        let cannot = |column, reason: String| undecodable(column, id, reason);

        let details_at: DetailsAt = serde_json::from_str(&self.details_at)
            .map_err(|error| cannot("details_at", format!("must map details to times: {error}")))?;
        let told = |told_at: Option<ToldAt>| {
            told_at
                .map(ToldAt::standing)
                .transpose()
                .map_err(|error| cannot("details_at", error.to_string()))
        };

        Ok(StoredImage {
            id,
            cloudflare_id: CloudflareId::parse(&self.cloudflare_id)
                .map_err(|error| cannot("cloudflare_id", error.to_string()))?,
            state: ImageState {
                status: Status::from_str(&self.status)
                    .map_err(|error| cannot("status", error.to_string()))?,
                status_at: self.status_at,
                uploaded_at: self.uploaded_at,
                error: self.error,
                details: ImageDetails {
                    filename: Detail {
                        value: self.filename,
                        told: told(details_at.filename)?,
                    },
                    creator: Detail {
                        value: self.creator,
                        told: told(details_at.creator)?,
                    },
                    require_signed_urls: Detail {
                        value: self.require_signed_urls,
                        told: told(details_at.require_signed_urls)?,
                    },
                    variants: Detail {
                        value: Json::as_stored(self.variants),
                        told: told(details_at.variants)?,
                    },
                    cloudflare_metadata: Detail {
                        value: Json::as_stored(self.cloudflare_metadata),
                        told: told(details_at.cloudflare_metadata)?,
                    },
                },
            },
            rest,
        })
    }
}

impl ImageColumns {
    /// Reads the columns, or says which of them makes no sense.
    pub(super) fn decode(self) -> Result<Image, StoreError> {
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

/// The text for the column `details_at`.
pub(super) fn details_at(details: &ImageDetails) -> String {
    fn told_at<T>(detail: &Detail<T>) -> Option<ToldAt> {
        detail.told.map(ToldAt::of)
    }

    let times = DetailsAt {
        filename: told_at(&details.filename),
        creator: told_at(&details.creator),
        require_signed_urls: told_at(&details.require_signed_urls),
        variants: told_at(&details.variants),
        cloudflare_metadata: told_at(&details.cloudflare_metadata),
    };
    serde_json::to_string(&times).expect("integers under fixed names are JSON")
}

/// The canonical form of a stored JSON column: Postgres writes `jsonb` in a form of its own, and other programs in theirs. What
/// cannot be read, because it is no JSON or holds a number beyond ours, says less than anything.
pub(super) fn canonical(stored: &Json) -> Json {
    let value: Result<serde_json::Value, _> = serde_json::from_str(stored.as_str());
    Json::from_canonical(value.map(|value| value.to_string()).unwrap_or_default())
}

/// The error of a column of `cloudflare_images` that makes no sense.
pub(super) fn undecodable(column: &'static str, id: Uuid, reason: String) -> StoreError {
    StoreError::Undecodable {
        table: "cloudflare_images",
        column,
        id: id.to_string(),
        reason,
    }
}
