//! The queue of lookups: the images that were still waiting for their upload some time after their creation.
//!
//! ```text
//! cloudflare_images ── queue ──► cloudflare_image_lookups ── claim ──► lookup at Cloudflare ──► record
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::error::StoreError;
use crate::clock::ClockReading;
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;

/// The queue of lookups.
#[async_trait]
pub trait Lookups: Send + Sync {
    /// Reads one page of images in the order of their creation, and queues those whose status is pending or draft. An image that is
    /// queued already stays as it is. Returns the position of the last image, or `None` if no images follow.
    async fn queue(&self, page: &ImagePage<'_>) -> Result<Option<ImagePosition>, StoreError>;

    /// Makes every lookup due now, except leased ones.
    async fn make_due(&self, now: ClockReading) -> Result<(), StoreError>;

    /// Returns the waiting images of one page, without queuing or leasing them, and the position of the page's last image. Returns
    /// `None` if no images follow.
    async fn peek(
        &self,
        page: &ImagePage<'_>,
    ) -> Result<Option<(ImagePosition, Vec<Lookup>)>, StoreError>;

    /// Returns the lookup of an image of any status, without leasing it.
    async fn find(&self, id: &CloudflareId) -> Result<Option<Lookup>, StoreError>;

    /// Leases up to `limit` due lookups, and removes those whose image has a final status by now, or no row.
    ///
    /// Another process can lease the same lookup when `lease` has passed.
    async fn claim(&self, claim: &LookupClaim) -> Result<ClaimedLookups, StoreError>;

    /// Records what lookups found, in one transaction, and removes them from the queue. Returns the outcome of each. An image whose
    /// row was deleted meanwhile counts as unknown.
    async fn record(
        &self,
        found: &[(LookupKey, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<Outcome>, StoreError>;

    /// Ends the lease of a lookup. The next lookup is due after `wait`.
    async fn postpone(
        &self,
        key: &LookupKey,
        wait: Duration,
        now: ClockReading,
    ) -> Result<(), StoreError>;
}

/// A page of images to queue.
#[derive(Debug, Clone)]
pub struct ImagePage<'a> {
    /// The position before the page. `None`: the page begins with the oldest image.
    pub after: Option<&'a ImagePosition>,
    /// The images of the page are older.
    pub created_before: Timestamp,
    /// The maximum number of images in the page.
    pub limit: u32,
    /// The current time.
    pub now: ClockReading,
}

/// The position of an image in the order of creation, as the database writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePosition {
    pub(super) created_at: String,
    pub(super) id: String,
}

impl ImagePosition {
    /// Returns the position before the images that were created at this time.
    #[must_use]
    pub fn before(time: Timestamp) -> Self {
        Self {
            created_at: time.to_string(),
            id: Uuid::nil().to_string(),
        }
    }
}

/// A request to lease due lookups.
#[derive(Debug, Clone, Copy)]
pub struct LookupClaim {
    /// The maximum number of lookups.
    pub limit: u32,
    /// The time after which another process can lease them.
    pub lease: Duration,
    /// The images are not older. `None`: images of any age.
    pub since: Option<Timestamp>,
    /// The current time.
    pub now: ClockReading,
}

/// Leased lookups.
#[derive(Debug, Clone, Default)]
pub struct ClaimedLookups {
    /// The lookups to do.
    pub lookups: Vec<Lookup>,
    /// Whether the claim found as many lookups as it wanted, so more may be due.
    pub is_full: bool,
}

/// The id of an image's row, as the database writes it. On SQLite, the form of a UUID depends on the program that inserted the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupKey(pub(super) String);

/// A leased lookup.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The row of the image.
    pub key: LookupKey,
    /// Cloudflare's id.
    pub cloudflare_id: CloudflareId,
    /// The status of the row.
    pub status: Status,
    /// The end of the upload URL. `None`: the column has no time that the service can represent, such as `infinity`.
    pub expires_at: Option<Timestamp>,
    /// The number of lookups of this image since it was queued, with this one.
    pub attempts: u32,
}

impl Lookup {
    /// Returns whether the row already has the result of the upload.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status.is_final()
    }
}
