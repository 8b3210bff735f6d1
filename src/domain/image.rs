//! An image, as the tables store it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use super::detail::ImageDetails;
use super::id::CloudflareId;
use super::json::Json;
use super::named::named_enum;
use super::timestamp::Timestamp;

named_enum! {
    /// The status of an upload.
    pub enum Status {
        /// An app registered the image. No notification has arrived yet.
        Pending = "pending",
        /// Cloudflare created the upload URL. The file is not uploaded yet.
        Draft = "draft",
        /// The file is uploaded. Final.
        Uploaded = "uploaded",
        /// Cloudflare reported that the upload failed. Final.
        Failed = "failed",
        /// The upload URL expired before the file was uploaded.
        Expired = "expired",
    }
}

impl Status {
    /// Returns whether the result of the upload is known. An expired upload URL is a guess.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Uploaded | Self::Failed => true,
            Self::Pending | Self::Draft | Self::Expired => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a text that is not the name of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be pending, draft, uploaded, failed or expired")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        Self::from_name(name).ok_or(UnknownStatus)
    }
}

/// The columns of an image that notifications change, with the times that decide whether they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// The status of the upload.
    pub status: Status,
    /// The time of the notification that reported the status; `None` if an app set the status.
    pub status_at: Option<Timestamp>,
    /// The end of the upload; only with [`Status::Uploaded`].
    pub uploaded_at: Option<Timestamp>,
    /// Cloudflare's error message with [`Status::Failed`], otherwise empty.
    pub error: String,
    /// The other reported columns.
    pub details: ImageDetails,
}

impl ImageState {
    /// Returns the state of an image that was just registered with only its id.
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

/// A row of `cloudflare_images`, as commands show it.
#[derive(Debug, Clone)]
pub struct Image {
    /// The id of the row. Audit log entries refer to it.
    pub id: Uuid,
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// The columns that notifications change.
    pub state: ImageState,
    /// The app's own metadata: an object that the service never changes.
    pub metadata: Json,
    /// The time at which the row was inserted.
    pub created_at: Timestamp,
    /// The time of the row's last change.
    pub updated_at: Timestamp,
}

/// An image to register.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// The file's name. May be empty.
    pub filename: String,
    /// The uploader, as the app names it to Cloudflare. May be empty.
    pub creator: String,
    /// The app's own metadata: an object.
    pub metadata: Json,
    /// The end of the upload URL. `None` counts as [`DEFAULT_UPLOAD_TIME`] after the insertion.
    pub expires_at: Option<Timestamp>,
    /// Whether the image can only be shown with signed URLs.
    pub require_signed_urls: bool,
}

/// The maximum length of the column `upload_url`.
pub const MAX_URL_CHARACTERS: usize = 500;

/// The time for which an upload URL works, unless another time was asked for. Cloudflare's default.
pub const DEFAULT_UPLOAD_TIME: Duration = Duration::from_mins(30);
