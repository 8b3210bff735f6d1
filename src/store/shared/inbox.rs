//! The inbox, mounted into each backend (see [`super`]).

use std::sync::Arc;

use async_trait::async_trait;

use super::columns::Backend;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::store::error::StoreError;
use crate::store::inbox::Inbox;
use crate::store::inbox::record::record;
use crate::store::session::TransactionMode;

#[async_trait]
impl Inbox for Backend {
    async fn record(
        &self,
        notifications: &[Arc<Notification>],
    ) -> Result<Vec<Outcome>, StoreError> {
        let mode = TransactionMode::Recording;
        let recording = self.transaction("recording notifications", mode, async |tx| {
            record(tx, notifications, &self.policy).await
        });
        let outcomes = recording.await?;
        self.count_committed(notifications.len());
        Ok(outcomes)
    }
}
