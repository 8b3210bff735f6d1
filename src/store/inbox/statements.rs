//! The SQL statements of the write path. Each backend implements them for its connection, inside a transaction.
//!
//! A statement handles all rows of a batch at once, and is never called without rows.

use uuid::Uuid;

use super::columns::StateColumns;
use super::image_update::ChangedImage;
use crate::domain::audit::AuditEntry;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::outbox::router::OutboxBatch;
use crate::store::rejections::NewRejection;
use crate::store::session::OperationError;

/// The statements about images and their audit log.
pub(in crate::store) trait ImageStatements: Send {
    /// Inserts the missing rows of these images in the given order. Returns the Cloudflare ids of the new rows.
    fn insert_missing_images(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<String>, OperationError>> + Send;

    /// Reads and locks the rows of these images until the end of the transaction.
    fn lock_images(
        &mut self,
        ids: &[&str],
        columns: ColumnSet,
    ) -> impl Future<Output = Result<Vec<StateColumns>, OperationError>> + Send;

    /// Returns the positions (from 0) of the reports that the audit log already has.
    fn find_already_logged(
        &mut self,
        reports: &[UndatedReport<'_>],
    ) -> impl Future<Output = Result<Vec<usize>, OperationError>> + Send;

    /// Updates images, and inserts entries into the audit log in the given order. One of the two lists may be empty. Returns the
    /// row ids of the entries if `with_entry_ids` is true.
    fn write_images(
        &mut self,
        images: &[ChangedImage],
        entries: &[AuditEntry],
        with_entry_ids: bool,
    ) -> impl Future<Output = Result<WriteResult, OperationError>> + Send;

    /// Deletes the row of this image. Returns the number of deleted rows.
    fn delete_image(
        &mut self,
        id: &CloudflareId,
    ) -> impl Future<Output = Result<u64, OperationError>> + Send;
}

/// The statements about events.
pub(in crate::store) trait EventStatements: Send {
    /// Inserts events and deliveries in the given order. On Postgres, also sends the announcements, which arrive at the commit.
    /// Skips events that are stored already.
    fn insert_events(
        &mut self,
        batch: &OutboxBatch<'_>,
    ) -> impl Future<Output = Result<InsertedEvents, OperationError>> + Send;

    /// Returns the number of these events that are stored.
    fn count_events(
        &mut self,
        ids: &[&str],
    ) -> impl Future<Output = Result<u64, OperationError>> + Send;
}

/// The statements about lookups at Cloudflare.
pub(in crate::store) trait LookupStatements: Send {
    /// Makes lookups of these images due now.
    fn queue_lookups(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> impl Future<Output = Result<(), OperationError>> + Send;
}

/// The statements about rejections.
pub(in crate::store) trait RejectionStatements: Send {
    /// Inserts rejections in the given order. Returns the number of new rows.
    fn insert_rejections(
        &mut self,
        rejections: &[NewRejection],
    ) -> impl Future<Output = Result<u64, OperationError>> + Send;

    /// Locks these rejections until the end of the transaction, except applied ones. Returns the locked ids.
    fn lock_unapplied(
        &mut self,
        ids: &[i64],
    ) -> impl Future<Output = Result<Vec<i64>, OperationError>> + Send;

    /// Marks these rejections as applied, each with its outcome. Returns the number of changed rows.
    fn mark_applied(
        &mut self,
        outcomes: &[(i64, &'static str)],
        now: Timestamp,
    ) -> impl Future<Output = Result<u64, OperationError>> + Send;
}

/// The columns of an image to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum ColumnSet {
    /// The columns that notifications change.
    State,
    /// Also the columns that only events use.
    StateAndExtra,
}

impl ColumnSet {
    pub(in crate::store) fn has_extra(self) -> bool {
        self == Self::StateAndExtra
    }
}

/// The result of a write.
#[derive(Default)]
pub(in crate::store) struct WriteResult {
    /// The number of updated images.
    pub(in crate::store) updated_images: u64,
    /// The number of new audit log entries.
    pub(in crate::store) inserted_entries: u64,
    /// The row ids of the new audit log entries in their order; empty if not requested.
    pub(in crate::store) entry_ids: Vec<i64>,
}

/// The number of rows that were added to the outbox.
pub(in crate::store) struct InsertedEvents {
    pub(in crate::store) events: u64,
    pub(in crate::store) deliveries: u64,
}

/// A report without a time. Its image has a row.
pub(in crate::store) struct UndatedReport<'a> {
    pub(in crate::store) image_id: Uuid,
    pub(in crate::store) cloudflare_id: &'a CloudflareId,
    /// The value of the audit log's column `data` for this report.
    pub(in crate::store) data: String,
}

/// The SQL condition for rejections that can still be applied.
macro_rules! is_unapplied {
    () => {
        "state IN ('parked', 'stored', 'failed')"
    };
}
pub(in crate::store) use is_unapplied;
