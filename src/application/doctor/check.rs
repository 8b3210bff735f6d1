//! A check of the installation, and its result.

use serde::{Serialize, Serializer};

/// A check. The checks come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CheckName {
    Configuration,
    Secret,
    WebhookListener,
    OpsListener,
    Database,
    Tables,
    DatabaseWrite,
    ConnectionPooler,
    PublicUrl,
    ApiToken,
    NotificationsPermission,
    ImagesPermission,
    Destination,
    Policy,
    DestinationFailures,
    Clock,
    LastWebhook,
    RefusedWebhooks,
    UnreadNotification,
    WaitingImages,
    ParkedNotifications,
    FailedDeliveries,
}

impl CheckName {
    /// Returns the name in the output. Programs compare the names, so a name never changes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Secret => "secret",
            Self::WebhookListener => "webhook-listener",
            Self::OpsListener => "ops-listener",
            Self::Database => "database",
            Self::Tables => "tables",
            Self::DatabaseWrite => "database-write",
            Self::ConnectionPooler => "connection-pooler",
            Self::PublicUrl => "public-url",
            Self::ApiToken => "api-token",
            Self::NotificationsPermission => "notifications-permission",
            Self::ImagesPermission => "images-permission",
            Self::Destination => "destination",
            Self::Policy => "policy",
            Self::DestinationFailures => "destination-failures",
            Self::Clock => "clock",
            Self::LastWebhook => "last-webhook",
            Self::RefusedWebhooks => "refused-webhooks",
            Self::UnreadNotification => "unread-notification",
            Self::WaitingImages => "waiting-images",
            Self::ParkedNotifications => "parked-notifications",
            Self::FailedDeliveries => "failed-deliveries",
        }
    }
}

impl Serialize for CheckName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The result of a check, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckStatus {
    Ok,
    /// It did not run.
    Skipped,
    Warning,
    Error,
}

impl CheckStatus {
    /// Returns the name in the output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A check that ran, or was skipped.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) name: CheckName,
    pub(crate) status: CheckStatus,
    /// What the check found, or why it was skipped.
    pub(crate) found: String,
    /// What to do.
    pub(crate) remedy: Option<String>,
}

impl Check {
    pub(super) fn ok(name: CheckName, found: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, found.into(), None)
    }

    pub(super) fn skipped(name: CheckName, reason: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Skipped, reason.into(), None)
    }

    pub(super) fn warning(
        name: CheckName,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self::new(name, CheckStatus::Warning, found.into(), remedy)
    }

    pub(super) fn error(
        name: CheckName,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self::new(name, CheckStatus::Error, found.into(), remedy)
    }

    pub(super) fn is_ok(&self) -> bool {
        self.status == CheckStatus::Ok
    }

    fn new(name: CheckName, status: CheckStatus, found: String, remedy: Option<String>) -> Self {
        Self {
            name,
            status,
            found,
            remedy,
        }
    }
}

/// Returns a skipped check for each name.
pub(super) fn skipped<const COUNT: usize>(names: [CheckName; COUNT], reason: &str) -> Vec<Check> {
    let checks = names.map(|name| Check::skipped(name, reason));
    checks.into()
}

/// All checks of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst result. A skipped check does not count.
    pub(crate) status: CheckStatus,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(super) fn of(checks: Vec<Check>) -> Self {
        let statuses = checks.iter().map(|check| check.status);
        let worst = statuses.filter(|status| *status != CheckStatus::Skipped);
        Self {
            status: worst.max().unwrap_or(CheckStatus::Ok),
            checks,
        }
    }

    /// Returns the number of checks with this result.
    pub(crate) fn count(&self, status: CheckStatus) -> usize {
        let found = self.checks.iter().filter(|check| check.status == status);
        found.count()
    }
}
