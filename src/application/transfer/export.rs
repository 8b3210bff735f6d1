//! Exports all images as text.

use super::columns::{Cells, Column};
use super::csv::write_record;
use crate::application::{ActionError, Context};
use crate::domain::named::named_enum;
use crate::domain::timestamp::Timestamp;
use crate::store::{ExportedImage, encode_details_at};

/// The maximum number of images that are read at once.
const PAGE_SIZE: u32 = 1000;

named_enum! {
    /// The format of an export.
    pub(crate) enum Format {
        /// A header, and one record for each image.
        Csv = "csv",
        /// One JSON object for each image, each on its line.
        JsonLines = "jsonl",
    }
}

/// Writes all images, in the order of their row ids. Stops without an error if `write` returns false.
///
/// An image that an app inserts meanwhile may be missing. No other image is missing or occurs twice.
pub(crate) async fn export(
    context: &Context,
    format: Format,
    mut write: impl FnMut(&str) -> bool,
) -> Result<(), ActionError> {
    let mut text = String::new();
    if format == Format::Csv {
        write_record(Column::ALL.into_iter().map(Column::name), &mut text);
    }
    let (mut position, mut limit) = (None, PAGE_SIZE);
    loop {
        let transfer = &context.store.image_transfer;
        let page = transfer.export_page(position.as_ref(), limit).await?;
        let count = u32::try_from(page.images.len()).unwrap_or(PAGE_SIZE);
        for exported in page.images {
            write_image(exported, format, &mut text);
        }
        if !write(&text) {
            return Ok(());
        }
        text.clear();
        // A page of large images has fewer than requested. The database need not send the others again and again.
        limit = count.saturating_mul(2).clamp(1, PAGE_SIZE);
        position = page.next;
        if position.is_none() {
            return Ok(());
        }
    }
}

fn write_image(exported: ExportedImage, format: Format, text: &mut String) {
    let cells = cells(exported);
    match format {
        Format::Csv => {
            let texts = Column::ALL.map(|column| cells.get(column).unwrap_or_default());
            write_record(texts.into_iter(), text);
        }
        Format::JsonLines => {
            text.push_str(&cells.json());
            text.push('\n');
        }
    }
}

fn cells(exported: ExportedImage) -> Cells {
    let ExportedImage { image, app_columns } = exported;
    let (state, app) = (image.state, app_columns);
    let details_at = encode_details_at(&state.details);
    let details = state.details;
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let mut cells = Cells::default();
    for (column, text) in [
        (Column::CloudflareId, Some(image.cloudflare_id.to_string())),
        (Column::Status, Some(state.status.name().to_owned())),
        (Column::StatusAt, time(state.status_at)),
        (Column::UploadedAt, time(state.uploaded_at)),
        (Column::Error, Some(state.error)),
        (Column::Filename, Some(details.filename.value)),
        (Column::Creator, Some(details.creator.value)),
        (
            Column::RequireSignedUrls,
            Some(details.require_signed_urls.value.to_string()),
        ),
        (
            Column::Variants,
            Some(details.variants.value.as_str().to_owned()),
        ),
        (
            Column::CloudflareMetadata,
            Some(details.cloudflare_metadata.value.as_str().to_owned()),
        ),
        (Column::DetailsAt, Some(details_at)),
        (Column::Metadata, Some(image.metadata.as_str().to_owned())),
        (Column::UserId, number(app.user_id)),
        (Column::OriginalFilename, app.original_filename),
        (Column::ContentType, app.content_type),
        (Column::FileSize, number(app.file_size)),
        (Column::Width, number(app.width)),
        (Column::Height, number(app.height)),
        (Column::Format, app.format),
        (Column::CreatedAt, Some(image.created_at.to_string())),
        (Column::UpdatedAt, Some(image.updated_at.to_string())),
        (Column::ExpiresAt, time(app.expires_at)),
        (Column::LastReferencedAt, time(app.last_referenced_at)),
        (Column::Id, Some(image.id.to_string())),
    ] {
        if let Some(text) = text {
            cells.set(column, text);
        }
    }
    cells
}
