//! The rows that an import writes, as JSON. Each statement gets all rows as one parameter, because an image has many columns.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::id::CloudflareId;
use crate::domain::image::ImageState;
use crate::domain::import::AppColumns;
use crate::domain::json::Json;
use crate::domain::timestamp::Timestamp;
use crate::store::inbox::columns::encode_details_at;

/// The columns that an import writes. Both backends select them from the parameter under these names.
macro_rules! imported_columns {
    () => {
        "id, cloudflare_id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls, variants,
         cloudflare_metadata, details_at, metadata, user_id, original_filename, content_type, file_size, width, height, format,
         created_at, updated_at, expires_at, last_referenced_at"
    };
}
pub(in crate::store) use imported_columns;

/// A row to insert or to update. A statement keeps the stored value of a column that is `None`.
pub(in crate::store) struct RowToWrite {
    pub(in crate::store) id: Uuid,
    pub(in crate::store) cloudflare_id: CloudflareId,
    pub(in crate::store) state: ImageState,
    /// Whether `variants` is written. Otherwise a text that another program wrote stays unchanged.
    pub(in crate::store) has_variants: bool,
    /// Whether `cloudflare_metadata` is written.
    pub(in crate::store) has_cloudflare_metadata: bool,
    pub(in crate::store) app_columns: AppColumns,
    pub(in crate::store) created_at: Timestamp,
    pub(in crate::store) updated_at: Timestamp,
}

/// Returns rows as a JSON array of objects.
pub(in crate::store) fn rows_json<'a>(rows: impl IntoIterator<Item = &'a RowToWrite>) -> String {
    let rows: Vec<JsonRow<'_>> = rows.into_iter().map(JsonRow::of).collect();
    serde_json::to_string(&rows).expect("texts, numbers and JSON serialize to JSON")
}

/// A row with its fields named after the columns.
#[derive(Serialize)]
struct JsonRow<'a> {
    id: String,
    cloudflare_id: &'a str,
    status: &'static str,
    status_at: Option<String>,
    uploaded_at: Option<String>,
    error: &'a str,
    filename: &'a str,
    creator: &'a str,
    require_signed_urls: bool,
    // In SQLite, an absent field is NULL, and a null field is the text `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    variants: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloudflare_metadata: Option<&'a RawValue>,
    details_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    user_id: Option<i64>,
    original_filename: Option<&'a str>,
    content_type: Option<&'a str>,
    file_size: Option<i64>,
    width: Option<i64>,
    height: Option<i64>,
    format: Option<&'a str>,
    created_at: String,
    updated_at: String,
    expires_at: Option<String>,
    last_referenced_at: Option<String>,
}

impl<'a> JsonRow<'a> {
    fn of(row: &'a RowToWrite) -> Self {
        let (state, details, app) = (&row.state, &row.state.details, &row.app_columns);
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
        Self {
            id: row.id.to_string(),
            cloudflare_id: row.cloudflare_id.as_str(),
            status: state.status.name(),
            status_at: text(state.status_at),
            uploaded_at: text(state.uploaded_at),
            error: &state.error,
            filename: &details.filename.value,
            creator: &details.creator.value,
            require_signed_urls: details.require_signed_urls.value,
            variants: raw(Some(&details.variants.value).filter(|_| row.has_variants)),
            cloudflare_metadata: raw(
                Some(&details.cloudflare_metadata.value).filter(|_| row.has_cloudflare_metadata)
            ),
            details_at: encode_details_at(details),
            metadata: raw(app.metadata.as_ref()),
            user_id: app.user_id,
            original_filename: app.original_filename.as_deref(),
            content_type: app.content_type.as_deref(),
            file_size: app.file_size,
            width: app.width,
            height: app.height,
            format: app.format.as_deref(),
            created_at: row.created_at.to_string(),
            updated_at: row.updated_at.to_string(),
            expires_at: text(app.expires_at),
            last_referenced_at: text(app.last_referenced_at),
        }
    }
}

fn raw(json: Option<&Json>) -> Option<&RawValue> {
    serde_json::from_str(json?.as_str()).ok()
}
