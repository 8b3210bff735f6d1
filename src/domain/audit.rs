//! The entry that a webhook, a lookup or an import writes to the audit log, `cloudflare_image_logs`.

use uuid::Uuid;

use super::id::CloudflareId;
use super::image::Status;
use super::json::Json;
use super::notification::Notification;
use super::outcome::{Origin, Outcome};
use super::timestamp::Timestamp;

/// The `event_type` of an entry for an imported row.
pub(crate) const IMPORTED: &str = "imported";

/// A new row of `cloudflare_image_logs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    /// The id of the image's row and Cloudflare's id; `None` if the entry is about no image.
    pub image: Option<(Uuid, CloudflareId)>,
    /// The outcome, for example `webhook_received`, or `imported`.
    pub event_type: &'static str,
    /// The outcome in words.
    pub message: String,
    /// JSON: `{"payload": …}`.
    pub data: String,
    pub timestamp: Timestamp,
}

impl AuditEntry {
    /// Returns the entry for a notification; `None` if it has none. `before` is the image's status before the notification.
    #[must_use]
    pub(crate) fn of(
        notification: &Notification,
        origin: Origin,
        outcome: Outcome,
        image: Option<(Uuid, CloudflareId)>,
        before: Option<Status>,
    ) -> Option<Self> {
        Some(Self {
            image,
            event_type: outcome.audit_event(origin)?,
            message: outcome.audit_message(before),
            data: Self::data(&notification.payload),
            timestamp: notification.received_at,
        })
    }

    /// Returns the entry for an imported row. `before` is the image's status before the import; `None` for a new row.
    #[must_use]
    pub(crate) fn imported(
        image: (Uuid, CloudflareId),
        payload: &Json,
        (before, after): (Option<Status>, Status),
        now: Timestamp,
    ) -> Self {
        let message = match before {
            None => format!("the image was imported with the status {after}"),
            Some(before) if before == after => {
                format!("the status stays {after}; the import changed other fields")
            }
            Some(before) => format!("the import changed the status from {before} to {after}"),
        };
        Self {
            image: Some(image),
            event_type: IMPORTED,
            message,
            data: Self::data(payload),
            timestamp: now,
        }
    }

    /// Returns the value of the column `data` for this payload. A U+0000 becomes U+FFFD.
    #[must_use]
    pub(crate) fn data(payload: &Json) -> String {
        format!("{{\"payload\":{}}}", payload.without_nul())
    }
}
