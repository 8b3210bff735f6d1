//! The inbox: records notifications in batches.
//!
//! ```text
//! GroupCommit ──► Inbox ──► record: lookup ─► decide ─► write ─► publish ─► reject
//! ```

pub(super) mod columns;
pub(super) mod group_commit;
pub(super) mod image_update;
pub(super) mod plan;
pub(super) mod record;
pub(super) mod statements;

use std::sync::Arc;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;

/// Records notifications.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Records notifications in one transaction, as if they came one after another, and returns their outcomes in their order. All
    /// are committed when this returns. On an error none is.
    ///
    /// The notifications are shared, so that an inbox can keep them for longer than its caller waits.
    async fn record(&self, notifications: &[Arc<Notification>])
    -> Result<Vec<Outcome>, StoreError>;
}
