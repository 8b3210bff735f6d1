//! Deleting rows that are older than their retention period.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::timestamp::Timestamp;

/// The retention: deletes old rows. In the audit log, it deletes only the entries about webhooks.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Reads one page of rows, and deletes or counts its rows that are older than `before`. The age of a rejection that was parked
    /// counts from its last parking. Returns `None` if no rows follow `after`.
    async fn prune_page(&self, query: &PruneQuery) -> Result<Option<PrunedPage>, StoreError>;

    /// Returns the id of the last row that was in the table before this service adopted it. `None` means that there was none.
    async fn last_adopted_id(&self, table: PrunableTable) -> Result<Option<i64>, StoreError>;
}

/// A page of rows to prune.
#[derive(Debug, Clone, Copy)]
pub struct PruneQuery {
    /// The table.
    pub table: PrunableTable,
    /// The id before the page: the page begins with the next one.
    pub after: i64,
    /// The maximum number of rows in the page.
    pub limit: u32,
    /// The time before which rows are old.
    pub before: Timestamp,
    /// The treatment of old rows.
    pub mode: PruneMode,
}

/// The treatment of old rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Delete them.
    Delete,
    /// Count them.
    Count,
}

/// A table that grows with every webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrunableTable {
    /// The audit log.
    AuditLog,
    /// Rejections.
    Rejections,
    /// Deliveries, with their attempts and events.
    Deliveries,
}

impl PrunableTable {
    /// Every table.
    pub const ALL: [Self; 3] = [Self::AuditLog, Self::Rejections, Self::Deliveries];

    /// Returns the table's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AuditLog => "cloudflare_image_logs",
            Self::Rejections => "webhook_rejections",
            Self::Deliveries => "relay_deliveries",
        }
    }
}

/// A page of rows after pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedPage {
    /// The id of its last row.
    pub last_id: i64,
    /// True if the page has old rows. Some of them may be kept, such as audit log entries that are not about webhooks.
    pub has_old_rows: bool,
    /// The number of rows that were deleted or counted.
    pub pruned: u64,
}
