//! The inbox: records notifications in batches.
//!
//! ```text
//! GroupCommit ──► Inbox ──► record: lookup ─► decide ─► write ─► add_to_outbox ─► reject
//! ```

pub(super) mod columns;
pub(super) mod group_commit;
pub(super) mod image_update;
pub(super) mod plan;
pub(super) mod record;
mod redelivery;
pub(super) mod statements;

use std::sync::Arc;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;

/// The inbox: records notifications.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Records notifications in one transaction, in their order, and returns their outcomes in the same order. On success all are
    /// committed. On an error none is.
    ///
    /// The notifications are in an `Arc`, because an inbox may need them longer than its caller waits.
    async fn record(&self, notifications: &[Arc<Notification>])
    -> Result<Vec<Outcome>, StoreError>;
}
