//! Decodes the columns of an app from the form in which both databases return them.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::event::Model;
use crate::domain::import::AppColumns;
use crate::domain::json::Json;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::columns::undecodable;

/// Decodes the columns of an app from a JSON array in the order of [`Model::EXTRA_IMAGE_FIELDS`]. An error names the column.
pub(in crate::store) fn decode_app_columns(
    array: &str,
    id: Uuid,
) -> Result<AppColumns, StoreError> {
    let values: Vec<&RawValue> = serde_json::from_str(array).unwrap_or_default();
    let row = ExtraColumns { values, id };
    Ok(AppColumns {
        metadata: row
            .raw("metadata")
            .map(|raw| Json::as_stored(raw.get().to_owned())),
        user_id: row.value("user_id")?,
        original_filename: row.value("original_filename")?,
        content_type: row.value("content_type")?,
        file_size: row.value("file_size")?,
        width: row.value("width")?,
        height: row.value("height")?,
        format: row.value("format")?,
        expires_at: row.time("expires_at")?,
        last_referenced_at: row.time("last_referenced_at")?,
    })
}

struct ExtraColumns<'a> {
    values: Vec<&'a RawValue>,
    id: Uuid,
}

impl<'a> ExtraColumns<'a> {
    /// Returns the JSON of a column; `None` for NULL.
    fn raw(&self, column: &str) -> Option<&'a RawValue> {
        let mut columns = Model::EXTRA_IMAGE_FIELDS.into_iter().zip(&self.values);
        let (_, raw) = columns.find(|(name, _)| *name == column)?;
        Some(*raw).filter(|raw| raw.get() != "null")
    }

    fn value<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let raw = self.raw(column);
        let value = raw.map(|raw| serde_json::from_str(raw.get())).transpose();
        value.map_err(|_| {
            undecodable(
                column,
                self.id,
                "must have the type of its column".to_owned(),
            )
        })
    }

    /// Parses a time. An app may have written the format of SQLite's `datetime()`, which is UTC without a suffix.
    fn time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let text: Option<String> = self.value(column)?;
        let parse = |text: String| {
            Timestamp::parse_rfc3339(&text)
                .or_else(|_| Timestamp::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
                .map_err(|error| undecodable(column, self.id, error.to_string()))
        };
        text.map(parse).transpose()
    }
}
