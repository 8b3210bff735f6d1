//! Deleting rows that are older than their retention period.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::timestamp::Timestamp;

/// Deletes old rows. In the audit log only the entries of webhooks: entries of other programs are theirs.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Looks at one page of rows, and deletes or counts those that are older than `before`. The age of a parked notification
    /// counts from when it was last parked. Returns `None` when there are no more rows.
    async fn prune_page(&self, page: &PageQuery) -> Result<Option<Page>, StoreError>;
}

/// A page of rows to prune.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    /// The table.
    pub table: PrunableTable,
    /// The page begins after the row with this id.
    pub after: i64,
    /// The most rows that are looked at.
    pub limit: u32,
    /// Rows from before this time are old.
    pub before: Timestamp,
    /// What to do with them.
    pub mode: PruneMode,
}

/// What to do with old rows.
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

/// The result of pruning a page of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The id of its last row.
    pub last_id: i64,
    /// Whether any of its rows is old.
    pub has_expired: bool,
    /// How many of its rows were deleted or counted.
    pub expired: u64,
}
