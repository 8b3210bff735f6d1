//! The columns of a file of images, and the cells of one line.

use std::borrow::Cow;

use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::domain::named::named_enum;

named_enum! {
    /// A column of a file, in the order of an export. The names are those of `cloudflare_images`.
    ///
    /// `upload_url` is no column, because the URL permits an upload while it works.
    pub(crate) enum Column {
        CloudflareId = "cloudflare_id",
        Status = "status",
        StatusAt = "status_at",
        UploadedAt = "uploaded_at",
        Error = "error",
        Filename = "filename",
        Creator = "creator",
        RequireSignedUrls = "require_signed_urls",
        Variants = "variants",
        CloudflareMetadata = "cloudflare_metadata",
        DetailsAt = "details_at",
        Metadata = "metadata",
        UserId = "user_id",
        OriginalFilename = "original_filename",
        ContentType = "content_type",
        FileSize = "file_size",
        Width = "width",
        Height = "height",
        Format = "format",
        CreatedAt = "created_at",
        UpdatedAt = "updated_at",
        ExpiresAt = "expires_at",
        LastReferencedAt = "last_referenced_at",
        Id = "id",
    }
}

/// The maximum size of a line, and so of a cell. Larger lines are invalid.
pub(super) const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// The maximum number of cells in a record of CSV.
pub(super) const MAX_CELLS: usize = 1024;

/// The number of columns.
pub(super) const COLUMNS: usize = Column::ALL.len();

/// The form of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, also for a time, a status and a UUID.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// JSON.
    Json,
}

impl Column {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::CloudflareId
            | Self::Status
            | Self::StatusAt
            | Self::UploadedAt
            | Self::Error
            | Self::Filename
            | Self::Creator
            | Self::OriginalFilename
            | Self::ContentType
            | Self::Format
            | Self::CreatedAt
            | Self::UpdatedAt
            | Self::ExpiresAt
            | Self::LastReferencedAt
            | Self::Id => Kind::Text,
            Self::UserId | Self::FileSize | Self::Width | Self::Height => Kind::Integer,
            Self::RequireSignedUrls => Kind::Boolean,
            Self::Variants | Self::CloudflareMetadata | Self::DetailsAt | Self::Metadata => {
                Kind::Json
            }
        }
    }
}

/// The cells of one line. A cell has text: that of a text column as it is, that of another column in the form of JSON.
#[derive(Debug, Default)]
pub(super) struct Cells([Option<String>; COLUMNS]);

impl Cells {
    /// Returns the text of a cell; `None` if the line does not have the cell.
    pub(super) fn get(&self, column: Column) -> Option<&str> {
        self.0[column as usize].as_deref()
    }

    /// Takes the text of a cell.
    pub(super) fn take(&mut self, column: Column) -> Option<String> {
        self.0[column as usize].take()
    }

    /// Sets the text of a cell. Returns whether the line had the cell before.
    pub(super) fn set(&mut self, column: Column, text: String) -> bool {
        self.0[column as usize].replace(text).is_some()
    }

    /// Returns each cell that the line has.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Column, &str)> {
        let cells = Column::ALL.into_iter().zip(&self.0);
        cells.filter_map(|(column, text)| Some((column, text.as_deref()?)))
    }
}

impl Cells {
    /// Returns the cells that the line has as a JSON object on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and JSON serialize to JSON")
    }
}

impl Serialize for Cells {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.iter()
                .map(|(column, text)| (column.name(), Cell { column, text })),
        )
    }
}

struct Cell<'a> {
    column: Column,
    text: &'a str,
}

impl Serialize for Cell<'_> {
    /// Writes a cell that is not text as JSON. If it is not JSON, writes it as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match self.column.kind() {
            Kind::Text => return serializer.serialize_str(self.text),
            Kind::Integer | Kind::Boolean | Kind::Json => on_one_line(self.text),
        };
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(json) => json.serialize(serializer),
            Err(_) => serializer.serialize_str(self.text),
        }
    }
}

/// Replaces the line breaks of JSON by blanks. JSON has them only between values.
fn on_one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}
