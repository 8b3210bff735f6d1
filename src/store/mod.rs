//! The only place that knows databases: traits shaped by who uses them, and two backends behind each.
//!
//! ```text
//! receiver ──► GroupCommit ──► Inbox      ┐
//! receiver ──────────────────► Rejections ├── postgres/ , sqlite/ ──► recording ──► batch ──► domain::transition
//! cli      ──────────────────► Catalog, RejectionCatalog
//! app, ops ──────────────────► Schema     ┘
//! ```
//!
//! Each method is one transaction and has one deadline. The backends read and write; what becomes of a row is decided in
//! [`batch`], which asks the domain, so that both databases decide alike.

mod batch;
mod error;
mod event;
mod group_commit;
mod outbox;
mod outlets;
mod postgres;
mod recording;
mod rejection;
mod row;
mod settings;
mod sqlite;
mod url;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::event::Audience;
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::notification::{Notification, UnknownImages};
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;

use outlets::Outlets;
use recording::Recording;

pub use error::StoreError;
pub use group_commit::{GroupCommit, Limits, Writer};
pub use outbox::{
    Attempt, Claim, Delivery, DeliveryCatalog, DeliveryFilter, EndpointState, Leased, NewAttempt,
    Notice, Outbox, Settlement,
};
pub(crate) use outlets::CHANNEL;
pub use rejection::{Due, RefusalCount, Rejection, RejectionFilter, StoredOrigin};
pub use settings::Settings;
pub use url::DatabaseUrl;

/// The table in which migrations are recorded; named for us, since a database can be shared with other programs that use sqlx.
const MIGRATIONS_TABLE: &str = "cloudflare_images_webhook_migrations";

/// Takes notifications in.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Records notifications as if they came one after another, in one transaction: all of them are committed when this
    /// returns, and the results stand in their order; or none is, and this fails.
    ///
    /// They are shared, so that an inbox can keep them for longer than its caller waits.
    async fn record(&self, notifications: &[Arc<Notification>])
    -> Result<Vec<Outcome>, StoreError>;
}

/// What was not applied.
#[async_trait]
pub trait Rejections: Send + Sync {
    /// Looks at so many parked notifications, from the first with a greater id on: those of them that are parked since this time or later
    /// and whose image has a row by now, in the order in which they came; only those with proof, if that is asked for. `None` when no
    /// more are parked, which costs next to nothing.
    async fn due(
        &self,
        after: i64,
        since: Timestamp,
        proved_only: bool,
        limit: u32,
    ) -> Result<Option<Due>, StoreError>;

    /// Records these notifications, each whose rejection is not applied yet, as the inbox does, and marks those rejections as
    /// applied, in one transaction; what they came to. One whose image has no row stays as it is. Any number of processes may do
    /// this at once: each notification is applied once, and is in the results of one of them.
    async fn apply(
        &self,
        notifications: &[(i64, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<(i64, Outcome)>, StoreError>;

    /// Parks a rejection that is not applied yet, as one about this image, from now on.
    async fn park(&self, id: i64, image: &CloudflareId, now: Timestamp) -> Result<(), StoreError>;

    /// Ends the parking of those that are parked since before this time, among those with an id over `after` and up to `last`: they are
    /// kept.
    async fn unpark(&self, after: i64, last: i64, since: Timestamp) -> Result<(), StoreError>;

    /// Adds to how many were turned away.
    async fn count(&self, counted: &[RefusalCount]) -> Result<(), StoreError>;

    /// Notes that a parked notification could not be applied, for this reason. After 20 times it is kept, and not tried again by
    /// itself.
    async fn failed(&self, id: i64, why: &str, now: Timestamp) -> Result<(), StoreError>;
}

/// Shows what was not applied.
#[async_trait]
pub trait RejectionCatalog: Send + Sync {
    /// The rejection with this id.
    async fn find_rejection(&self, id: i64) -> Result<Option<Rejection>, StoreError>;

    /// The newest of these, the last first; so many at most.
    async fn newest_rejections(
        &self,
        which: &RejectionFilter,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError>;

    /// Those of these that are not applied and of which there is a body, from the first with a greater id on; so many at most.
    async fn unapplied_rejections(
        &self,
        which: &RejectionFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError>;
}

/// Deletes what is old. Of the audit trail that are the entries of webhooks: what other programs write there is theirs.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Looks at so many rows from the first with a greater id on, and deletes or counts those of them that are from before this
    /// time; what was parked is from when it was parked last. `None` when there are no more rows.
    async fn prune_page(
        &self,
        aged: Aged,
        after: i64,
        before: Timestamp,
        limit: u32,
        what: Pruning,
    ) -> Result<Option<Page>, StoreError>;
}

/// What to do with what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pruning {
    /// Delete it.
    Delete,
    /// Say how much it is.
    Count,
}

/// What grows with every webhook, and is deleted when it is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aged {
    /// The audit trail.
    Logs,
    /// What was not applied.
    Rejections,
    /// What other apps were told, and every try to.
    Deliveries,
}

impl Aged {
    /// All of it.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Rejections, Self::Deliveries];

    /// The table's name.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Logs => "cloudflare_image_logs",
            Self::Rejections => "webhook_rejections",
            Self::Deliveries => "relay_deliveries",
        }
    }
}

/// What became of a page of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The id of its last row.
    pub last: i64,
    /// Whether any of its rows was from before the time that was asked for.
    pub has_old: bool,
    /// How many of its rows were deleted, or counted.
    pub old: u64,
}

/// Shows, registers and deletes images.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Inserts a row for an upload that is to come.
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<Added, StoreError>;

    /// Deletes an image's row. What the audit trail has of it stays, and what Cloudflare has of it, too.
    async fn delete(&self, id: &CloudflareId, now: Timestamp) -> Result<Deleted, StoreError>;

    /// The image with this id.
    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError>;

    /// The images that were changed last, newest first, of one status or of any.
    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError>;
}

/// What became of registering an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The row is new.
    Inserted,
    /// There was a row with this id. It is unchanged.
    AlreadyThere,
}

/// What became of deleting an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// There is no row any more.
    Gone,
    /// There was no row with this id.
    WasNotThere,
}

/// Brings the tables up to date, and says whether they are.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Runs the migrations that have not run. Any number of processes may do this at once; each returns when all have run.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// The numbers of the migrations that have not run. Fails when the database cannot be reached.
    async fn pending(&self) -> Result<Vec<i64>, StoreError>;

    /// Fails when the database could not be written to, as far as that can be told without writing.
    async fn check_writable(&self) -> Result<(), StoreError>;
}

/// An opened database, by its uses.
#[derive(Clone)]
pub struct Store {
    /// For the receiver.
    pub inbox: Arc<dyn Inbox>,
    /// For what the inbox could not apply.
    pub rejections: Arc<dyn Rejections>,
    /// For people.
    pub catalog: Arc<dyn Catalog>,
    /// For people.
    pub rejection_catalog: Arc<dyn RejectionCatalog>,
    /// For tidying up.
    pub retention: Arc<dyn Retention>,
    /// For starting and for readiness.
    pub schema: Arc<dyn Schema>,
    /// For whoever delivers.
    pub outbox: Arc<dyn Outbox>,
    /// For people.
    pub delivery_catalog: Arc<dyn DeliveryCatalog>,
    bells: HashMap<String, Arc<Notify>>,
    closing: Arc<dyn Closing>,
}

impl Store {
    /// Opens the database that the settings name. SQLite's file and folder are made when they are missing; Postgres is
    /// not asked anything yet.
    pub async fn open(
        settings: &Settings,
        unknown_images: UnknownImages,
        audience: Audience,
    ) -> Result<Self, StoreError> {
        let outlets = Outlets::new(audience);
        let bells: HashMap<_, _> = outlets.bells().collect();
        let recording = Recording {
            unknown_images,
            outlets,
        };
        match &settings.url {
            DatabaseUrl::Sqlite(path) => {
                let database = sqlite::Sqlite::open(path, settings, recording).await?;
                Ok(Self::of(Arc::new(database), bells))
            }
            DatabaseUrl::Postgres(options) => {
                let database = postgres::Postgres::open(options, settings, recording);
                Ok(Self::of(Arc::new(database), bells))
            }
        }
    }

    /// Gives every connection back. What was committed stays; no call may follow.
    pub async fn close(&self) {
        self.closing.close().await;
    }

    /// What is rung when this process has recorded something for this endpoint.
    #[must_use]
    pub fn bell(&self, endpoint: &str) -> Arc<Notify> {
        self.bells.get(endpoint).cloned().unwrap_or_default()
    }

    fn of<D>(database: Arc<D>, bells: HashMap<String, Arc<Notify>>) -> Self
    where
        D: Inbox + Rejections + Catalog + RejectionCatalog + Retention + Schema + Closing,
        D: Outbox + DeliveryCatalog + 'static,
    {
        Self {
            inbox: database.clone(),
            rejections: database.clone(),
            catalog: database.clone(),
            rejection_catalog: database.clone(),
            retention: database.clone(),
            schema: database.clone(),
            outbox: database.clone(),
            delivery_catalog: database.clone(),
            bells,
            closing: database,
        }
    }
}

#[async_trait]
trait Closing: Send + Sync {
    async fn close(&self);
}

/// How long a migration, and the wait for another process that is migrating, may take.
const MIGRATION_DEADLINE: Duration = Duration::from_mins(15);

/// The migrations that have not run. Those that a newer release has run are none of our business.
fn pending(migrator: &Migrator, applied: &[i64]) -> Vec<i64> {
    let versions = migrator.iter().map(|migration| migration.version);
    versions
        .filter(|version| !applied.contains(version))
        .collect()
}

/// Gives an operation its deadline and its name.
async fn within<T>(
    place: &Place,
    deadline: Duration,
    action: &'static str,
    operation: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, operation).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Database(source))) => Err(StoreError::Database {
            place: place.clone(),
            action,
            source,
        }),
        Ok(Err(Failure::Row(error))) => Err(error),
        Err(_) => Err(StoreError::TookTooLong {
            place: place.clone(),
            action,
            deadline,
        }),
    }
}

/// A connection that goes back to its pool only when its work was seen to end well.
///
/// After an error or a deadline nobody knows what state it is in: SQLite has rolled back where sqlx thinks it has not, or the
/// other end of the network says nothing any more. Such a connection is closed, and the pool makes a new one.
struct Lent<DB: Database> {
    connection: PoolConnection<DB>,
    since: Instant,
    is_sound: bool,
}

impl<DB: Database> Lent<DB> {
    async fn from(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            since: Instant::now(),
            is_sound: false,
        })
    }

    /// The work ended well.
    fn give_back(mut self) {
        self.is_sound = true;
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if !self.is_sound {
            self.connection.close_on_drop();
        }
    }
}

/// Where a database is, for people: a host and a port, or a file. Never a password.
pub type Place = Arc<str>;

/// How the inside of an operation fails, before the operation's name is known.
enum Failure {
    Database(sqlx::Error),
    Row(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(source: sqlx::Error) -> Self {
        Self::Database(source)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Row(error)
    }
}
