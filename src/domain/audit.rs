//! The entries that webhooks make in the audit log, `cloudflare_image_logs`.

use uuid::Uuid;

use super::id::CloudflareId;
use super::image::Status;
use super::json::Json;
use super::notification::Notification;
use super::outcome::Outcome;
use super::timestamp::Timestamp;

/// A new row of `cloudflare_image_logs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    /// The image's row, if the entry is about one.
    pub image: Option<(Uuid, CloudflareId)>,
    /// The outcome, as `webhook_received`.
    pub event_type: &'static str,
    /// The outcome, as a clause for people.
    pub message: String,
    /// JSON: `{"payload": …}`.
    pub data: String,
    pub timestamp: Timestamp,
}

impl AuditEntry {
    /// Returns the entry of a notification with this outcome; `None` for a rejection. `before` is the image's status before it.
    #[must_use]
    pub(crate) fn of(
        notification: &Notification,
        outcome: Outcome,
        image: Option<(Uuid, CloudflareId)>,
        before: Option<Status>,
    ) -> Option<Self> {
        Some(Self {
            image,
            event_type: outcome.audit_event()?,
            message: outcome.audit_message(before),
            data: Self::data(&notification.payload),
            timestamp: notification.received_at,
        })
    }

    /// Returns the column `data` of the entry of a notification with this payload.
    #[must_use]
    pub(crate) fn data(payload: &Json) -> String {
        format!("{{\"payload\":{}}}", payload.as_str())
    }
}
