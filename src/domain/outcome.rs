//! The outcome of one webhook, with its name, HTTP status and audit log entry.

use super::image::Status;
use super::named::named_enum;
use super::precedence::Effect;

/// The result of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The row was changed or inserted. It has this status now.
    Applied(Status),
    /// The notification reports nothing new. The row has this status.
    Duplicate(Status),
    /// The notification is out of date. The row keeps this status.
    Stale(Status),
    /// The notification does not say what became of the image. The service asks Cloudflare. The row keeps this status until then.
    Accepted(Status),
    /// Cloudflare's "Save and Test" message.
    Test,
    /// An alert of another Cloudflare product.
    Ignored,
    /// The webhook was refused.
    Rejected(RejectionReason),
}

/// The origin of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Cloudflare sent it.
    Webhook,
    /// The service looked the image up at Cloudflare.
    Lookup,
}

named_enum! {
    /// The reason for a refusal. Its name is the last part of the problem's `type` and the column `reason` of `webhook_rejections`.
    pub enum RejectionReason {
        /// The body is not JSON, has an unknown shape, or breaks a rule.
        InvalidPayload = "invalid-payload",
        /// `cloudflare_images` has no row with this id.
        UnknownImage = "unknown-image",
        /// The request has no valid credential.
        Unauthenticated = "unauthorized",
        /// The client address is not allowed to send webhooks.
        AddressNotAllowed = "address-not-allowed",
    }
}

impl Outcome {
    /// Returns the outcome of a notification about an image whose row has this status afterwards.
    #[must_use]
    pub fn of_image(effect: Effect, status: Status) -> Self {
        match effect {
            Effect::Applied => Self::Applied(status),
            Effect::Duplicate => Self::Duplicate(status),
            Effect::Stale => Self::Stale(status),
        }
    }

    /// Returns the name in responses, logs, tables and command output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Duplicate(_) => "duplicate",
            Self::Stale(_) => "stale",
            Self::Accepted(_) => "accepted",
            Self::Test => "test",
            Self::Ignored => "ignored",
            Self::Rejected(reason) => reason.name(),
        }
    }

    /// Returns the HTTP status of the response.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Applied(_)
            | Self::Duplicate(_)
            | Self::Stale(_)
            | Self::Accepted(_)
            | Self::Test
            | Self::Ignored => 200,
            Self::Rejected(reason) => reason.http_status(),
        }
    }

    /// Returns the image's status after this outcome; `None` if no image row is affected.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        match self {
            Self::Applied(status)
            | Self::Duplicate(status)
            | Self::Stale(status)
            | Self::Accepted(status) => Some(status),
            Self::Test | Self::Ignored | Self::Rejected(_) => None,
        }
    }

    /// Returns the audit log's `event_type`; `None` if there is no entry. A rejection is stored in another table. A lookup has an
    /// entry only if it changed the row.
    #[must_use]
    pub fn audit_event(self, origin: Origin) -> Option<&'static str> {
        match (origin, self) {
            (Origin::Webhook, Self::Applied(_)) => Some("webhook_received"),
            (Origin::Webhook, Self::Duplicate(_)) => Some("webhook_duplicate"),
            (Origin::Webhook, Self::Stale(_)) => Some("webhook_stale"),
            (Origin::Webhook, Self::Accepted(_)) => Some("webhook_accepted"),
            (Origin::Webhook, Self::Test) => Some("webhook_test"),
            (Origin::Webhook, Self::Ignored) => Some("webhook_ignored"),
            (Origin::Lookup, Self::Applied(_)) => Some("reconciled"),
            (_, Self::Rejected(_)) | (Origin::Lookup, _) => None,
        }
    }

    /// Returns the audit log's `message`, given the image's status before the webhook.
    #[must_use]
    pub fn audit_message(self, before: Option<Status>) -> String {
        match self {
            Self::Applied(after) => match before.filter(|before| *before != after) {
                None => format!("the status stays {after}; other fields changed"),
                Some(before) => format!("the status changed from {before} to {after}"),
            },
            Self::Duplicate(after) => {
                format!("the notification reports nothing new; the status stays {after}")
            }
            Self::Stale(after) => {
                format!("the notification is out of date; the status stays {after}")
            }
            Self::Accepted(_) => {
                "the notification cannot be read; the service asks Cloudflare".to_owned()
            }
            Self::Test => "Cloudflare sent a test message".to_owned(),
            Self::Ignored => "Cloudflare sent an alert of another product".to_owned(),
            Self::Rejected(_) => String::new(),
        }
    }
}

impl RejectionReason {
    /// Returns the HTTP status of the response.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidPayload => 400,
            Self::UnknownImage => 404,
            Self::Unauthenticated => 401,
            Self::AddressNotAllowed => 403,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_outcomes_to_status_and_names() {
        let uploaded = Status::Uploaded;
        let rejected = Outcome::Rejected;
        let table = [
            (
                Outcome::Applied(uploaded),
                (200, "applied", Some("webhook_received")),
            ),
            (
                Outcome::Duplicate(uploaded),
                (200, "duplicate", Some("webhook_duplicate")),
            ),
            (
                Outcome::Stale(uploaded),
                (200, "stale", Some("webhook_stale")),
            ),
            (
                Outcome::Accepted(uploaded),
                (200, "accepted", Some("webhook_accepted")),
            ),
            (Outcome::Test, (200, "test", Some("webhook_test"))),
            (Outcome::Ignored, (200, "ignored", Some("webhook_ignored"))),
            (
                rejected(RejectionReason::InvalidPayload),
                (400, "invalid-payload", None),
            ),
            (
                rejected(RejectionReason::Unauthenticated),
                (401, "unauthorized", None),
            ),
            (
                rejected(RejectionReason::AddressNotAllowed),
                (403, "address-not-allowed", None),
            ),
            (
                rejected(RejectionReason::UnknownImage),
                (404, "unknown-image", None),
            ),
        ];
        for (outcome, expected) in table {
            let found = (
                outcome.http_status(),
                outcome.name(),
                outcome.audit_event(Origin::Webhook),
            );
            assert_eq!(found, expected, "{outcome:?}");
        }
    }

    #[test]
    fn lookup_is_logged_only_if_applied() {
        let event = |outcome: Outcome| outcome.audit_event(Origin::Lookup);

        assert_eq!(event(Outcome::Applied(Status::Expired)), Some("reconciled"));
        assert_eq!(event(Outcome::Duplicate(Status::Uploaded)), None);
        assert_eq!(event(Outcome::Stale(Status::Failed)), None);
    }

    #[test]
    fn reason_names_round_trip() {
        for reason in RejectionReason::ALL {
            assert_eq!(RejectionReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(RejectionReason::from_name("busy"), None);
    }

    #[test]
    fn audit_message_describes_change() {
        let uploaded = Outcome::Applied(Status::Uploaded);

        assert_eq!(
            uploaded.audit_message(Some(Status::Draft)),
            "the status changed from draft to uploaded"
        );
        assert_eq!(
            uploaded.audit_message(Some(Status::Uploaded)),
            "the status stays uploaded; other fields changed"
        );
    }
}
