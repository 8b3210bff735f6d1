//! The catalog of images: register, show and delete them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::timestamp::Timestamp;

/// Shows, registers and deletes images.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Inserts a row for an upload that is still to come.
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<InsertOutcome, StoreError>;

    /// Deletes an image's row. Its entries in the audit log stay, and so does the image at Cloudflare.
    async fn delete(&self, id: &CloudflareId, now: Timestamp) -> Result<DeleteOutcome, StoreError>;

    /// Returns the image with this id.
    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError>;

    /// Returns up to `limit` images, last changed first, of one status or of any.
    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError>;
}

/// The result of registering an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The row is new.
    Inserted,
    /// A row with this id exists. It is unchanged.
    Exists,
}

/// The result of deleting an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// The row is deleted.
    Deleted,
    /// No row has this id.
    NotFound,
}
