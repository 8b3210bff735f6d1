//! The import and the export of images.
//!
//! ```text
//! ImageTransfer::import      ──► insert ─► lock ─► plan: merge ─► update ─► log ─► add_to_outbox
//! ImageTransfer::export_page ──► one page of rows, by primary key
//! ```

mod app_columns;
pub(super) mod plan;
pub(super) mod rows;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::image::Image;
use crate::domain::import::{AppColumns, ImportedImage};
use crate::domain::timestamp::Timestamp;

use app_columns::decode_app_columns;

/// The import and the export of images.
#[async_trait]
pub trait ImageTransfer: Send + Sync {
    /// Imports images in one transaction, and returns the effect on each. No id may occur twice. On an error no image is imported.
    async fn import(
        &self,
        images: &[ImportedImage],
        now: Timestamp,
    ) -> Result<Vec<ImportEffect>, StoreError>;

    /// Returns the images after a position (`None` is the start), in the order of the primary key. There are at most `limit` of
    /// them, and fewer if they are large.
    async fn export_page(
        &self,
        after: Option<&ExportPosition>,
        limit: u32,
    ) -> Result<ExportPage, StoreError>;
}

/// The effect of an import on one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportEffect {
    /// The row is new.
    Inserted,
    /// The row has changed.
    Updated,
    /// The row had all imported values, or newer ones.
    Unchanged,
    /// The image has no row, and the row id belongs to another image. Nothing is imported.
    RowIdTaken,
}

/// A part of an export.
#[derive(Debug)]
pub struct ExportPage {
    /// The images, in order.
    pub images: Vec<ExportedImage>,
    /// The position of the last image; `None` at the end of the table.
    pub next: Option<ExportPosition>,
}

/// The position of a row in the order of the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPosition(pub(super) String);

/// An image with all columns that an export has.
#[derive(Debug, Clone)]
pub struct ExportedImage {
    /// The columns of the service, and the metadata of the app.
    pub image: Image,
    /// The other columns of the app. `metadata` is in `image`.
    pub app_columns: AppColumns,
}

/// The number of bytes at which a page takes no more images. Apps may store large metadata.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

impl ExportedImage {
    /// Adds the columns of the app to an image. Returns the size in bytes too.
    pub(super) fn decode(image: Image, extra_columns: &str) -> Result<(Self, usize), StoreError> {
        let app_columns = decode_app_columns(extra_columns, image.id)?;
        let details = &image.state.details;
        let size = extra_columns.len()
            + image.metadata.as_str().len()
            + details.variants.value.as_str().len()
            + details.cloudflare_metadata.value.as_str().len()
            + details.filename.value.len()
            + details.creator.value.len();
        Ok((Self { image, app_columns }, size))
    }
}

impl ExportPage {
    /// Returns a page without images. It is the last page.
    pub(super) fn empty() -> Self {
        Self {
            images: Vec::new(),
            next: None,
        }
    }

    /// Returns whether the page takes no more images.
    pub(super) fn is_full(&self, bytes: usize, limit: u32) -> bool {
        bytes >= MAX_PAGE_BYTES || self.images.len() >= limit as usize
    }
}
