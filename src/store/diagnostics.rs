//! Facts about the tables that show whether an installation works. Each statement reads a bounded number of rows, so that it is
//! fast in large tables too.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::timestamp::Timestamp;

/// The most rows that one statement reads.
pub const MAX_EXAMINED_ROWS: u32 = 10_000;

/// Facts about the tables.
#[async_trait]
pub trait Diagnostics: Send + Sync {
    /// Returns the time of the newest webhook in the audit log, without test messages. Reads the newest
    /// [`MAX_EXAMINED_ROWS`] entries.
    async fn last_webhook(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Returns the newest rejection of a sender that a scheme authenticated. Reads the newest [`MAX_EXAMINED_ROWS`] rejections.
    async fn last_authenticated_rejection(
        &self,
    ) -> Result<Option<AuthenticatedRejection>, StoreError>;

    /// Returns the requests that were refused since this time, by reason. Reads the newest [`MAX_EXAMINED_ROWS`] rejections.
    async fn refusals(&self, since: Timestamp) -> Result<Refusals, StoreError>;

    /// Returns how many images that were created before this time still wait for their upload. Reads the newest
    /// [`MAX_EXAMINED_ROWS`] of them.
    async fn waiting_images(&self, created_before: Timestamp) -> Result<WaitingImages, StoreError>;

    /// Returns the number of failed deliveries by endpoint. Counts up to [`MAX_EXAMINED_ROWS`] of them.
    async fn failed_deliveries(&self) -> Result<Vec<(String, u64)>, StoreError>;

    /// Returns the number of parked notifications. Counts up to [`MAX_EXAMINED_ROWS`] of them.
    async fn parked(&self) -> Result<Parked, StoreError>;

    /// Returns the id of the newest rejection whose payload is invalid, unless it was applied since. Reads the newest
    /// [`MAX_EXAMINED_ROWS`] rejections.
    async fn last_invalid_payload(&self) -> Result<Option<i64>, StoreError>;
}

/// A rejection of an authenticated sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticatedRejection {
    /// The scheme.
    pub scheme: String,
    /// The time of receipt.
    pub received_at: Timestamp,
}

/// Refused requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// The numbers of requests by reason, the largest one first.
    pub by_reason: Vec<(String, u64)>,
    /// Whether there may be more.
    pub is_incomplete: bool,
}

/// Images that wait for their upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingImages {
    /// The number of images that were looked at.
    pub examined: u64,
    /// The number of those with the status `pending` or `draft`.
    pub waiting: u64,
}

/// Parked notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// Their number.
    pub count: u64,
    /// The time when the first of them was parked.
    pub oldest: Option<Timestamp>,
}
