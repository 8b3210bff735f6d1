//! Redeliveries of reports without a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::columns::StoredImage;
use super::statements::{ImageStatements, UndatedReport};
use crate::domain::audit::AuditEntry;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Content, Notification};
use crate::store::session::OperationError;

/// Returns the reports without a time that the audit log already has, as pairs of image and payload. Only the payload shows that
/// such a report is a redelivery.
pub(super) async fn already_logged(
    tx: &mut impl ImageStatements,
    images: &[StoredImage],
    notifications: &[Arc<Notification>],
) -> Result<HashSet<(CloudflareId, Json)>, OperationError> {
    if notifications
        .iter()
        .all(|notification| image_of_undated_report(notification).is_none())
    {
        return Ok(HashSet::new());
    }
    let image_ids: HashMap<&CloudflareId, Uuid> = images
        .iter()
        .map(|image| (&image.cloudflare_id, image.id))
        .collect();
    let (reports, payloads): (Vec<_>, Vec<_>) = notifications
        .iter()
        .filter_map(|notification| {
            let cloudflare_id = image_of_undated_report(notification)?;
            let report = UndatedReport {
                image_id: *image_ids.get(cloudflare_id)?,
                cloudflare_id,
                data: AuditEntry::data(&notification.payload),
            };
            Some((report, &notification.payload))
        })
        .unzip();
    if reports.is_empty() {
        return Ok(HashSet::new());
    }
    let positions = tx.find_already_logged(&reports).await?;
    let found = positions.into_iter().filter_map(|position| {
        let cloudflare_id = reports.get(position)?.cloudflare_id.clone();
        Some((cloudflare_id, Json::clone(payloads.get(position)?)))
    });
    Ok(found.collect())
}

/// Returns the image of the notification, if it is a report without a time.
fn image_of_undated_report(notification: &Notification) -> Option<&CloudflareId> {
    match &notification.content {
        Content::Report(report) if report.reported_at.is_none() => Some(&report.cloudflare_id),
        Content::Report(_)
        | Content::Hint(_)
        | Content::TestMessage
        | Content::OtherAlert
        | Content::Invalid(_) => None,
    }
}
