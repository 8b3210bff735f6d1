//! The shape of an event: `{"event":"image.uploaded","image":{…}}`.

use serde_json::Value;

use super::error::PayloadError;
use super::field::Fields;
use super::ignored::IgnoredFields;
use crate::domain::notification::{Report, ReportedStatus};

/// The only known event.
const IMAGE_UPLOADED: &str = "image.uploaded";

pub(super) fn parse(
    fields: &Fields<'_>,
    ignored: &mut IgnoredFields,
) -> Result<Report, PayloadError> {
    if fields.get("event").and_then(Value::as_str) != Some(IMAGE_UPLOADED) {
        return Err(fields.invalid("event", format!("must be \"{IMAGE_UPLOADED}\"")));
    }
    let image = fields.object("image", "image.")?;
    let uploaded_at = image.time("uploaded", ignored);

    Ok(Report {
        cloudflare_id: image.cloudflare_id("id")?,
        status: Some(ReportedStatus::Uploaded { uploaded_at }),
        reported_at: fields.time("timestamp", ignored).or(uploaded_at),
        details: image.details(ignored),
    })
}
