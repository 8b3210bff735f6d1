//! The catalog of images: adding, listing and deleting them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::timestamp::Timestamp;

/// The catalog of images: lists, adds and deletes them.
#[async_trait]
pub trait ImageCatalog: Send + Sync {
    /// Adds the row of an image that is not uploaded yet.
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<AddResult, StoreError>;

    /// Stores the upload URL of an image. It is not published, because everybody who has it can upload.
    async fn set_upload_url(
        &self,
        id: &CloudflareId,
        upload_url: &str,
        now: Timestamp,
    ) -> Result<SetResult, StoreError>;

    /// Deletes an image's row. Its audit log entries and the image at Cloudflare stay.
    async fn delete(&self, id: &CloudflareId, now: Timestamp) -> Result<DeleteResult, StoreError>;

    /// Returns the image with this id.
    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError>;

    /// Returns up to `limit` images, last changed first. `None` means images of any status.
    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError>;
}

/// The result of adding an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddResult {
    /// The row is new.
    Added,
    /// A row with this id exists. It is unchanged.
    Exists,
}

/// The result of storing an upload URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetResult {
    /// It is stored.
    Set,
    /// No row has this id.
    NotFound,
}

/// The result of deleting an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteResult {
    /// The row is deleted.
    Deleted,
    /// No row has this id.
    NotFound,
}
