//! The database: one trait for each use, and two backends that implement all of them. No other module uses sqlx.
//!
//! ```text
//! receiver    ──► inbox::group_commit ──► Inbox       ┐
//! receiver    ──────────────────────────► Rejections  │
//! relay       ──────────────────────────► Outbox      │
//! application ──► ImageTransfer, UploadRequests       │
//! application ──────────────────────────► catalogs    ├── postgres/, sqlite/ ──► inbox::record ──► inbox::plan ──► domain
//! retention   ──────────────────────────► Retention   │       └── shared/: statements that are the same on both
//! reconcile   ──────────────────────────► Lookups     │
//! application ──────────────────────────► Diagnostics │
//! app, ops    ──────────────────────────► Schema      ┘
//! ```
//!
//! Each method is one operation with one deadline. The exception is SQLite's claim: it is two operations, because it reads before
//! it takes the write lock. The backends only run SQL. [`inbox::plan`] decides what to write, so the decisions
//! do not depend on the database.

mod adoption;
mod audit_log;
mod call_limit;
mod catalog;
mod diagnostics;
mod error;
mod inbox;
mod lookups;
mod outbox;
mod pooling;
mod postgres;
mod rejections;
mod retention;
mod schema;
mod server_error;
mod session;
mod settings;
mod sqlite;
mod transfer;
mod upload_requests;
mod url;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::domain::event::Subscriptions;
use crate::domain::notification::UnknownImages;
use inbox::record::RecordPolicy;
use outbox::router::EventRouter;

pub use call_limit::{CallLimit, TakenCall};
pub use catalog::{AddResult, DeleteResult, ImageCatalog, SetResult};
pub use diagnostics::{
    AuthenticatedRejection, Diagnostics, MAX_EXAMINED_ROWS, Parked, Refusals, WaitingImages,
};
pub use error::{DatabaseLabel, ErrorClass, StoreError};
pub use inbox::Inbox;
pub(crate) use inbox::columns::{decode_details_at, encode_details_at};
pub use inbox::group_commit::{GroupCommit, GroupCommitLimits, Writer};
pub use lookups::{
    ClaimedLookups, ImagePage, ImagePosition, Lookup, LookupClaim, LookupKey, Lookups,
};
pub(crate) use outbox::router::NOTIFY_ENDPOINT;
pub use outbox::{
    Alert, Attempt, Changed, Claim, Claimed, Delivery, DeliveryCatalog, DeliveryFilter,
    EndpointState, ExpiredLeases, FinishedAttempt, GivenUp, LEASE_EXPIRED, LeaseResult,
    LeasedDelivery, MoveTarget, NewAttempt, NextState, Outbox, Pause, PauseProbe, Settled,
    Settlement, Unsent,
};
pub use pooling::Pooling;
pub use rejections::{
    ParkedPage, ParkedQuery, RefusalCount, Rejection, RejectionCatalog, RejectionFilter,
    Rejections, StoredRequestInfo,
};
pub use retention::{PrunableTable, PruneMode, PruneQuery, PrunedPage, Retention};
pub use schema::Schema;
pub use settings::Settings;
pub use transfer::{ExportPage, ExportPosition, ExportedImage, ImageTransfer, ImportEffect};
pub use upload_requests::{
    Begun, NewUploadRequest, UploadAnswer, UploadAttempt, UploadLeaseResult, UploadRequests,
};
pub(crate) use url::InvalidVariables;
pub use url::{DatabaseUrl, IgnoredParameter};

/// An open database, with one field for each use.
#[derive(Clone)]
pub struct Store {
    /// The inbox: records notifications.
    pub inbox: Arc<dyn Inbox>,
    /// The store of rejections: parks, applies and expires them, and counts refused requests.
    pub rejections: Arc<dyn Rejections>,
    /// The catalog of images: lists, adds and deletes them.
    pub image_catalog: Arc<dyn ImageCatalog>,
    /// The import and the export of images.
    pub image_transfer: Arc<dyn ImageTransfer>,
    /// The requests for upload URLs that have an idempotency key.
    pub upload_requests: Arc<dyn UploadRequests>,
    /// The catalog of rejections: lists them.
    pub rejection_catalog: Arc<dyn RejectionCatalog>,
    /// The retention: deletes old rows.
    pub retention: Arc<dyn Retention>,
    /// The schema: runs migrations, and checks whether the database is ready.
    pub schema: Arc<dyn Schema>,
    /// The outbox: leases due deliveries, and records their results.
    pub outbox: Arc<dyn Outbox>,
    /// The catalog of deliveries: lists and replays them.
    pub delivery_catalog: Arc<dyn DeliveryCatalog>,
    /// The queue of lookups at Cloudflare.
    pub lookups: Arc<dyn Lookups>,
    /// The limit on calls of Cloudflare's API, which all processes with this database share.
    pub call_limit: Arc<dyn CallLimit>,
    /// Facts that show whether the installation works.
    pub diagnostics: Arc<dyn Diagnostics>,
    /// Notified when this process has made lookups at Cloudflare due.
    pub lookups_wakeup: Arc<Notify>,
    wakeups: HashMap<String, Arc<Notify>>,
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Postgres(Arc<postgres::Postgres>),
    Sqlite(Arc<sqlite::Sqlite>),
}

impl Store {
    /// Opens the database in the settings. For SQLite, creates the file and its folder if they are missing. For Postgres,
    /// waits until the name of the server can be resolved, and connects at the first operation.
    pub async fn open(
        settings: &Settings,
        unknown_images: UnknownImages,
        subscriptions: Subscriptions,
    ) -> Result<Self, StoreError> {
        let router = EventRouter::new(subscriptions);
        let wakeups = router.wakeups();
        let lookups_wakeup = Arc::default();
        let policy = RecordPolicy {
            unknown_images,
            router,
            lookups_wakeup: Arc::clone(&lookups_wakeup),
        };
        match &settings.url {
            DatabaseUrl::Sqlite(url) => {
                let path = &url.path;
                sqlite::adoption::check_tables(path).await?;
                let database = Arc::new(sqlite::Sqlite::open(path, settings, policy).await?);
                let backend = Backend::Sqlite(Arc::clone(&database));
                Ok(Self::new(&database, wakeups, lookups_wakeup, backend))
            }
            DatabaseUrl::Postgres(url) => {
                let timeout = settings.acquire_timeout_secs.seconds();
                url.wait_for_name(timeout).await;
                let database = postgres::Postgres::open(url, settings, policy);
                let database = Arc::new(database);
                let backend = Backend::Postgres(Arc::clone(&database));
                Ok(Self::new(&database, wakeups, lookups_wakeup, backend))
            }
        }
    }

    /// Closes every connection. No method may be called afterwards.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Postgres(database) => database.close().await,
            Backend::Sqlite(database) => database.close().await,
        }
    }

    /// Returns whether a connection pooler shares server sessions. Detects it if it is not known.
    pub async fn pooling(&self) -> Result<Pooling, StoreError> {
        match &self.backend {
            // The future is large.
            Backend::Postgres(database) => Box::pin(database.pooling()).await,
            Backend::Sqlite(_) => Ok(Pooling::Absent),
        }
    }

    /// Returns the wake-up of this endpoint. It is notified when this process has committed a delivery for the endpoint.
    #[must_use]
    pub fn wakeup(&self, endpoint: &str) -> Arc<Notify> {
        self.wakeups.get(endpoint).cloned().unwrap_or_default()
    }

    fn new<D>(
        database: &Arc<D>,
        wakeups: HashMap<String, Arc<Notify>>,
        lookups_wakeup: Arc<Notify>,
        backend: Backend,
    ) -> Self
    where
        D: Inbox + Rejections + ImageCatalog + ImageTransfer + RejectionCatalog + Retention,
        D: Schema + Outbox + DeliveryCatalog + Lookups + CallLimit + Diagnostics,
        D: UploadRequests + 'static,
    {
        Self {
            inbox: database.clone(),
            rejections: database.clone(),
            image_catalog: database.clone(),
            image_transfer: database.clone(),
            upload_requests: database.clone(),
            rejection_catalog: database.clone(),
            retention: database.clone(),
            schema: database.clone(),
            outbox: database.clone(),
            delivery_catalog: database.clone(),
            lookups: database.clone(),
            call_limit: database.clone(),
            diagnostics: database.clone(),
            wakeups,
            lookups_wakeup,
            backend,
        }
    }
}
