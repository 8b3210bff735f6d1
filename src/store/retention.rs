//! Deleting rows that are older than their retention period.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::timestamp::Timestamp;

/// The retention: deletes old rows. In the audit log, it deletes only the entries that this service wrote.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Reads one page of rows, and deletes or counts its rows that are older than `before`. A rejection that was parked ages from
    /// its last parking. Returns `None` if no rows follow `after`.
    async fn prune_page(&self, page: &PageQuery) -> Result<Option<Page>, StoreError>;
}

/// A page of rows to prune.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    /// The table.
    pub table: PrunableTable,
    /// The id before the page: the page begins with the next one.
    pub after: i64,
    /// The most rows in the page.
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

/// The result of pruning a page of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The id of its last row.
    pub last_id: i64,
    /// True if any row of the page is old.
    pub has_expired: bool,
    /// The number of rows that were deleted or counted.
    pub expired: u64,
}
