//! Parses the cells of a line into an image to import.

use std::str::FromStr;

use uuid::Uuid;

use super::columns::{Cells, Column};
use super::error::{InvalidLine, json_reason};
use crate::domain::detail::{DetailTimes, ReportedDetails};
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::import::{AppColumns, ImportedImage, StatusColumns};
use crate::domain::json::{Json, MAX_ACCEPTED_LEVELS, is_deeper_than};
use crate::domain::timestamp::Timestamp;
use crate::receiver::payload::canonical_json;
use crate::store::decode_details_at;

/// Parses the cells of a line.
pub(super) fn parse(mut cells: Cells) -> Result<ImportedImage, InvalidLine> {
    let contains_nul = |(_, text): &(Column, &str)| text.contains('\0');
    if let Some((column, _)) = cells.iter().find(contains_nul) {
        return Err(InvalidLine::ContainsNul(column));
    }
    let payload = Json::as_stored(cells.json());
    let cells = &mut cells;
    let id = cells.take(Column::CloudflareId);
    let id = id.ok_or(InvalidLine::Missing(Column::CloudflareId))?;
    let cloudflare_id = CloudflareId::parse(&id)
        .map_err(|error| InvalidLine::rule(Column::CloudflareId, &error))?;
    if !cloudflare_id.fits_index() {
        return Err(InvalidLine::IdTooLong);
    }
    Ok(ImportedImage {
        cloudflare_id,
        id: parse_cell(cells, Column::Id, |text| {
            Uuid::parse_str(text).map_err(|_| "must be a UUID")
        })?,
        status: parse_status(cells)?,
        details: parse_details(cells)?,
        details_at: parse_details_at(cells)?,
        app_columns: parse_app_columns(cells)?,
        created_at: parse_time(cells, Column::CreatedAt)?,
        updated_at: parse_time(cells, Column::UpdatedAt)?,
        payload,
    })
}

fn parse_cell<T, E: ToString>(
    cells: &Cells,
    column: Column,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, InvalidLine> {
    let value = cells.get(column).map(parse).transpose();
    value.map_err(|error| InvalidLine::rule(column, &error))
}

fn parse_time(cells: &Cells, column: Column) -> Result<Option<Timestamp>, InvalidLine> {
    parse_cell(cells, column, Timestamp::parse_rfc3339)
}

fn parse_integer(cells: &Cells, column: Column) -> Result<Option<i64>, InvalidLine> {
    parse_cell(cells, column, |text| {
        i64::from_str(text).map_err(|_| "must be a whole number")
    })
}

fn parse_status(cells: &mut Cells) -> Result<Option<StatusColumns>, InvalidLine> {
    let belonging = [Column::StatusAt, Column::UploadedAt, Column::Error];
    let Some(status) = parse_cell(cells, Column::Status, Status::from_str)? else {
        let given = belonging
            .into_iter()
            .find(|column| cells.get(*column).is_some_and(|text| !text.is_empty()));
        return given.map_or(Ok(None), |column| Err(InvalidLine::WithoutStatus(column)));
    };
    Ok(Some(StatusColumns {
        status,
        status_at: parse_time(cells, Column::StatusAt)?,
        uploaded_at: parse_time(cells, Column::UploadedAt)?,
        error: cells.take(Column::Error).unwrap_or_default(),
    }))
}

fn parse_details(cells: &mut Cells) -> Result<ReportedDetails, InvalidLine> {
    Ok(ReportedDetails {
        filename: cells.take(Column::Filename),
        creator: cells.take(Column::Creator),
        require_signed_urls: parse_cell(cells, Column::RequireSignedUrls, |text| {
            // Spreadsheets write capitals.
            bool::from_str(&text.to_ascii_lowercase()).map_err(|_| "must be true or false")
        })?,
        variants: parse_json(cells, Column::Variants)?
            .map(|json| json.starting_with('[', "must be a JSON array"))
            .transpose()?,
        cloudflare_metadata: parse_json(cells, Column::CloudflareMetadata)?
            .map(|json| json.starting_with('{', "must be a JSON object"))
            .transpose()?,
    })
}

fn parse_details_at(cells: &mut Cells) -> Result<DetailTimes, InvalidLine> {
    if let Some(text) = cells.get(Column::DetailsAt) {
        check_depth(Column::DetailsAt, text)?;
    }
    let times = parse_cell(cells, Column::DetailsAt, |text| {
        decode_details_at(text).map_err(
            |_| r#"must be a JSON object of times, such as {"filename": 1704110400000000}"#,
        )
    })?;
    Ok(times.unwrap_or_default())
}

fn parse_app_columns(cells: &mut Cells) -> Result<AppColumns, InvalidLine> {
    let has_metadata = parse_json(cells, Column::Metadata)?.is_some();
    Ok(AppColumns {
        // The canonical form would round large numbers. The metadata is the app's, so its text is stored.
        metadata: cells
            .take(Column::Metadata)
            .filter(|_| has_metadata)
            .map(Json::as_stored),
        user_id: parse_integer(cells, Column::UserId)?,
        original_filename: cells.take(Column::OriginalFilename),
        content_type: cells.take(Column::ContentType),
        file_size: parse_integer(cells, Column::FileSize)?,
        width: parse_integer(cells, Column::Width)?,
        height: parse_integer(cells, Column::Height)?,
        format: cells.take(Column::Format),
        expires_at: parse_time(cells, Column::ExpiresAt)?,
        last_referenced_at: parse_time(cells, Column::LastReferencedAt)?,
    })
}

/// JSON of a cell, in canonical form.
struct JsonCell {
    column: Column,
    json: Json,
}

impl JsonCell {
    fn starting_with(self, start: char, rule: &'static str) -> Result<Json, InvalidLine> {
        if self.json.as_str().starts_with(start) {
            Ok(self.json)
        } else {
            Err(InvalidLine::rule(self.column, &rule))
        }
    }
}

fn parse_json(cells: &Cells, column: Column) -> Result<Option<JsonCell>, InvalidLine> {
    let Some(text) = cells.get(column) else {
        return Ok(None);
    };
    check_depth(column, text)?;
    let json = canonical_json(text).map_err(|error| {
        InvalidLine::rule(column, &format!("must be JSON: {}", json_reason(&error)))
    })?;
    // The text has no U+0000, but JSON can have it as an escape sequence.
    if json.without_nul() != json.as_str() {
        return Err(InvalidLine::ContainsNul(column));
    }
    Ok(Some(JsonCell { column, json }))
}

/// Fails for JSON with more levels than the service accepts, before a parser reads it.
fn check_depth(column: Column, text: &str) -> Result<(), InvalidLine> {
    if is_deeper_than(text.as_bytes(), MAX_ACCEPTED_LEVELS) {
        return Err(InvalidLine::TooDeep(column));
    }
    Ok(())
}
