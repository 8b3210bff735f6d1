//! The shape of an event: `{"event":"image.uploaded","image":{…}}`.

use super::error::PayloadError;
use super::field::Fields;
use crate::domain::notification::{Report, ReportedStatus};

/// The only known event.
const IMAGE_UPLOADED: &str = "image.uploaded";

pub(super) fn parse(fields: &Fields<'_>) -> Result<Report, PayloadError> {
    if fields.text("event")? != Some(IMAGE_UPLOADED) {
        return Err(fields.invalid("event", format!("must be \"{IMAGE_UPLOADED}\"")));
    }
    let image = fields.object("image", "image.")?;
    let uploaded_at = image.time("uploaded")?;

    Ok(Report {
        cloudflare_id: image.cloudflare_id("id")?,
        status: Some(ReportedStatus::Uploaded { uploaded_at }),
        reported_at: fields.time("timestamp")?.or(uploaded_at),
        details: image.details()?,
    })
}
