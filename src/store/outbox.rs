//! The outbox as its two users see it: whoever delivers, and whoever looks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::Model;
use crate::domain::timestamp::Timestamp;

/// Hands out deliveries, and takes back what became of them.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Leases deliveries that are due, the longest due first. None while the endpoint is paused. Any number of processes may do this at
    /// once: a delivery is leased to one of them.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError>;

    /// Records what became of leased deliveries, all in one transaction; those whose lease was lost meanwhile stay as they are, and how
    /// many these were is returned. Every attempt is kept, whether or not its lease was.
    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError>;

    /// Pauses an endpoint: nothing is delivered to it until it is resumed. One that is paused stays paused for its first reason.
    async fn pause(&self, endpoint: &str, why: &str, now: Timestamp) -> Result<(), StoreError>;

    /// Ends the pause, if it is for this reason or if any will do; whether there was one. What waited for longer is due at once.
    async fn resume(&self, endpoint: &str, because: Option<&str>) -> Result<bool, StoreError>;
}

/// Shows deliveries, and brings them back.
#[async_trait]
pub trait DeliveryCatalog: Send + Sync {
    /// The delivery with this id.
    async fn find_delivery(&self, id: i64) -> Result<Option<Delivery>, StoreError>;

    /// Its tries, in order; the first so many.
    async fn attempts(&self, delivery: i64, limit: u32) -> Result<Vec<Attempt>, StoreError>;

    /// The newest of these, the last first; so many at most. Without their messages.
    async fn newest_deliveries(
        &self,
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Makes these due again, as if they had never been tried, those that are leased or waiting excepted; how many they were.
    async fn replay(&self, which: &DeliveryFilter, now: Timestamp) -> Result<u64, StoreError>;

    /// Every endpoint that has deliveries or is paused, by name.
    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError>;
}

/// Which deliveries somebody wants to work on.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Whose.
    pub endpoint: &'a str,
    /// How many at most.
    pub limit: usize,
    /// Whether a delivery waits for all earlier ones about the same image.
    pub ordered: bool,
    /// The time: what is due by then.
    pub now: Timestamp,
    /// When the lease ends.
    pub until: Timestamp,
    /// The lease's own name, which nobody else has.
    pub lease: &'a str,
}

/// A delivery that somebody has the right to work on.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The delivery's id.
    pub id: i64,
    /// The event's.
    pub event_id: String,
    /// What it is about; a notice is about no model.
    pub model: Option<Model>,
    /// How often it was tried before.
    pub attempts: u32,
    /// The event, as it is told to whoever wants it whole.
    pub payload: String,
}

/// What became of a leased delivery.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The delivery's id.
    pub delivery: i64,
    /// The lease under which it was worked on.
    pub lease: Arc<str>,
    /// Its state from now on.
    pub status: DeliveryStatus,
    /// When it is to be tried, if it is.
    pub due_at: Option<Timestamp>,
    /// When this was found.
    pub now: Timestamp,
    /// The try, if there was one.
    pub attempt: Option<NewAttempt>,
    /// The message as it was sent, where the endpoint's settings make it another than the event's.
    pub sent: Option<String>,
    /// Who else is told of it, in the same transaction.
    pub notices: Vec<Notice>,
}

/// Somebody is told that another could not be told.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The event's id.
    pub id: String,
    /// What happened: `gave_up`, `failing`, `recovered`.
    pub event: &'static str,
    /// The endpoint that is told.
    pub endpoint: &'static str,
    /// The message: JSON.
    pub payload: String,
    /// When it happened.
    pub at: Timestamp,
}

/// One try.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// Which one it was, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The HTTP status of the answer, if there was one.
    pub status_code: Option<u16>,
    /// What went wrong; empty if nothing did.
    pub error: String,
}

/// A row of `relay_deliveries`, with its event.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The delivery's id.
    pub id: i64,
    /// The event's.
    pub event_id: String,
    /// `created`, `updated` or `deleted`.
    pub event: String,
    /// The model's label.
    pub model: String,
    /// Cloudflare's id of the image that it is about.
    pub image: Option<String>,
    /// The endpoint's name.
    pub endpoint: String,
    /// Its state.
    pub status: DeliveryStatus,
    /// The HTTP status of the last answer.
    pub status_code: Option<i32>,
    /// What went wrong in the last try.
    pub error: String,
    /// How many tries there were.
    pub attempts: i32,
    /// When it is tried next; of one that is leased, when the lease ends.
    pub due_at: Option<Timestamp>,
    /// When the event happened.
    pub created_at: Timestamp,
    /// When it came to its end.
    pub completed_at: Option<Timestamp>,
    /// The message as it was sent, or would be; empty in a list.
    pub payload: String,
}

/// A row of `relay_attempts`.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which one it was, from 1.
    pub number: i32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// The HTTP status of the answer, if there was one.
    pub status_code: Option<i32>,
    /// What went wrong; empty if nothing did.
    pub error: String,
}

/// Which deliveries are meant.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// The one with this id.
    pub id: Option<i64>,
    /// Those for this endpoint.
    pub endpoint: Option<String>,
    /// Those in this state.
    pub status: Option<DeliveryStatus>,
    /// Those whose event happened at this time or later.
    pub since: Option<Timestamp>,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// Its name.
    pub name: String,
    /// Since when it is paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// Why.
    pub paused_because: String,
    /// How many deliveries wait for it or are worked on.
    pub waiting: i64,
    /// How many were given up.
    pub gave_up: i64,
}

impl Settlement {
    /// When the delivery came to its end, if it did.
    pub(super) fn completed_at(&self) -> Option<Timestamp> {
        self.due_at.is_none().then_some(self.now)
    }

    pub(super) fn status_code(&self) -> Option<i32> {
        self.attempt.as_ref()?.status_code.map(i32::from)
    }

    pub(super) fn error(&self) -> &str {
        self.attempt.as_ref().map_or("", |attempt| &attempt.error)
    }
}

impl NewAttempt {
    pub(super) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Returns the state that the column `status` names.
pub(super) fn delivery_status(name: &str, id: i64) -> Result<DeliveryStatus, StoreError> {
    DeliveryStatus::named(name).ok_or_else(|| StoreError::Undecodable {
        table: "relay_deliveries",
        column: "status",
        id: id.to_string(),
        reason: "must be pending, leased, delivered, retrying, gave_up or filtered".to_owned(),
    })
}
