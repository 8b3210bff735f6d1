//! The import of an image: the columns that a file has, and their merge with the stored row.
//!
//! A row is the maximum of everything that notifications reported, so the merge takes the maximum of two rows. An import never
//! moves an image backwards, whether it or the notifications come first. A detail without a time was written by an app. The
//! imported one replaces the stored one, as an `UPDATE` of the app would.

use uuid::Uuid;

use super::detail::{DetailTimes, ReportedDetails};
use super::id::CloudflareId;
use super::image::{ImageState, Status};
use super::json::Json;
use super::timestamp::Timestamp;

/// An image to import. A column that is `None` keeps the stored value, or has the default in a new row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// The id of the row, if the row is new.
    pub id: Option<Uuid>,
    /// The status and the columns that belong to it.
    pub status: Option<StatusColumns>,
    /// The details.
    pub details: ReportedDetails,
    /// The time of each detail.
    pub details_at: DetailTimes,
    /// The columns that belong to the app.
    pub app_columns: AppColumns,
    /// The time of the insertion, if the row is new.
    pub created_at: Option<Timestamp>,
    /// The time of the last change, if the row is new.
    pub updated_at: Option<Timestamp>,
    /// The given columns as an object, for the audit log.
    pub payload: Json,
}

/// The status of an image, and the columns that change only with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusColumns {
    /// The status of the upload.
    pub status: Status,
    /// The time of the notification that reported the status.
    pub status_at: Option<Timestamp>,
    /// The end of the upload.
    pub uploaded_at: Option<Timestamp>,
    /// Cloudflare's error message.
    pub error: String,
}

/// The columns of an image that belong to the app. The service writes them only at the insertion and by an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppColumns {
    /// The app's own metadata.
    pub metadata: Option<Json>,
    /// The user in the app.
    pub user_id: Option<i64>,
    /// The file's name on the user's device.
    pub original_filename: Option<String>,
    /// The media type.
    pub content_type: Option<String>,
    /// The size in bytes.
    pub file_size: Option<i64>,
    /// The width in pixels.
    pub width: Option<i64>,
    /// The height in pixels.
    pub height: Option<i64>,
    /// The image format.
    pub format: Option<String>,
    /// The end of the upload URL.
    pub expires_at: Option<Timestamp>,
    /// The last use.
    pub last_referenced_at: Option<Timestamp>,
}

impl ImportedImage {
    /// Merges the imported status and details into the columns of a row. Returns whether they changed. JSON must be canonical.
    pub fn merge_into(&self, state: &mut ImageState) -> bool {
        let has_status = match &self.status {
            Some(status) => status.merge_into(state),
            None => false,
        };
        let has_details = state
            .details
            .merge_imported(&self.details, &self.details_at);
        has_status || has_details
    }
}

impl StatusColumns {
    /// Replaces the status of a row if this one is greater. Returns whether it was replaced.
    fn merge_into(&self, state: &mut ImageState) -> bool {
        let stored = Self {
            status: state.status,
            status_at: state.status_at,
            uploaded_at: state.uploaded_at,
            error: std::mem::take(&mut state.error),
        };
        let is_greater = self.rank() > stored.rank();
        let greatest = if is_greater { self.clone() } else { stored };
        state.status = greatest.status;
        state.status_at = greatest.status_at;
        state.uploaded_at = greatest.uploaded_at;
        state.error = greatest.error;
        is_greater
    }

    /// Returns the place in the order that the [transition table](super::transition) has, as a key to compare.
    ///
    /// Two equal keys have equal columns, so the greatest of several does not depend on their order.
    fn rank(&self) -> impl Ord {
        let stage = match self.status {
            Status::Pending => 0,
            Status::Draft => 1,
            Status::Expired => 2,
            Status::Uploaded | Status::Failed => 3,
        };
        (
            stage,
            self.status_at.or(self.uploaded_at),
            self.status == Status::Uploaded,
            self.uploaded_at,
            (self.error.len(), self.error.clone()),
            self.status_at,
        )
    }
}

#[cfg(test)]
mod tests;
