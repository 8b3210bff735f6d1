//! An image as our tables know it.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::detail::ImageDetails;
use super::id::CloudflareId;
use super::json::Json;
use super::named::named_enum;
use super::timestamp::Timestamp;

named_enum! {
    /// What has become of an upload. The variants are in the order in which an image meets them.
    pub enum Status {
        /// An app registered it; nothing was heard yet.
        Pending = "pending",
        /// Cloudflare has made the upload URL; the bytes are not there.
        Draft = "draft",
        /// The bytes are there. Final.
        Uploaded = "uploaded",
        /// Cloudflare refused or lost the upload. Final.
        Failed = "failed",
        /// The upload URL ran out before the bytes came.
        Expired = "expired",
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The word names no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be pending, draft, uploaded, failed or expired")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(word: &str) -> Result<Self, UnknownStatus> {
        Self::from_name(word).ok_or(UnknownStatus)
    }
}

/// What a notification can change about an image, and what decides whether it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// What has become of the upload.
    pub status: Status,
    /// The time of the notification that told the status; `None` while an app set it.
    pub status_at: Option<Timestamp>,
    /// When the bytes were there; only with [`Status::Uploaded`].
    pub uploaded_at: Option<Timestamp>,
    /// Why it failed; empty but with [`Status::Failed`].
    pub error: String,
    /// Everything else that is told.
    pub details: ImageDetails,
}

impl ImageState {
    /// The state of an image that was just registered with nothing but its id.
    #[must_use]
    pub fn registered() -> Self {
        Self {
            status: Status::Pending,
            status_at: None,
            uploaded_at: None,
            error: String::new(),
            details: ImageDetails::initial(),
        }
    }
}

/// A row of `cloudflare_images`, as far as people look at it.
#[derive(Debug, Clone)]
pub struct Image {
    /// The row's own id, which log rows refer to.
    pub id: Uuid,
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// What notifications change.
    pub state: ImageState,
    /// The app's own metadata: an object that we never change.
    pub metadata: Json,
    /// When the row was inserted.
    pub created_at: Timestamp,
    /// When the row was last changed.
    pub updated_at: Timestamp,
}

/// An image to be registered.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// The file's name, or empty.
    pub filename: String,
    /// Who uploads it, or empty.
    pub creator: String,
    /// The app's own metadata: an object.
    pub metadata: Json,
}
