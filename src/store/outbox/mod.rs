//! The outbox: events, their deliveries to endpoints, and the attempts of each delivery.
//!
//! `due_at` alone says whether a delivery is to be worked on, and when: for the first time, again, or because its lease ran out.
//! NULL means that it is completed. So one statement claims, one partial index finds, and a replica that was killed needs no
//! clean-up.

pub(super) mod event;
pub(super) mod router;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::Model;
use crate::domain::timestamp::Timestamp;

/// Hands out deliveries under leases, and records the results.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Leases due deliveries, the longest due first, and returns them in the order of their ids. While the endpoint is paused, leases
    /// none. Any number of processes may call this at once: each delivery is leased to one of them.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError>;

    /// Records the results of leased deliveries in one transaction, and returns how many leases were lost. A delivery whose lease
    /// was lost stays as it is. Its attempt is stored all the same.
    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError>;

    /// Pauses an endpoint: nothing is delivered to it until it is resumed. An endpoint that is paused keeps its first reason.
    async fn pause(&self, endpoint: &str, reason: &str, now: Timestamp) -> Result<(), StoreError>;

    /// Ends a pause with this reason, or with any if `because` is `None`, and returns whether there was one. Waiting deliveries are
    /// due at once.
    async fn resume(&self, endpoint: &str, reason: Option<&str>) -> Result<bool, StoreError>;
}

/// Shows deliveries, and replays them.
#[async_trait]
pub trait DeliveryCatalog: Send + Sync {
    /// Returns the delivery with this id.
    async fn find_delivery(&self, id: i64) -> Result<Option<Delivery>, StoreError>;

    /// Returns the first `limit` attempts of a delivery, in order.
    async fn attempts(&self, delivery: i64, limit: u32) -> Result<Vec<Attempt>, StoreError>;

    /// Returns up to `limit` deliveries, newest first, without their payloads.
    async fn newest_deliveries(
        &self,
        filter: &DeliveryFilter,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Makes completed deliveries due again, as if they had never been tried, and returns how many.
    async fn replay(&self, filter: &DeliveryFilter, now: Timestamp) -> Result<u64, StoreError>;

    /// Returns every endpoint that is paused or has deliveries that wait or were given up, by name.
    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError>;
}

/// The deliveries that a worker asks for.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// The most deliveries to lease.
    pub limit: usize,
    /// Whether a delivery waits for all earlier ones about the same image.
    pub ordered: bool,
    /// Deliveries are due until this time.
    pub now: Timestamp,
    /// When the lease ends.
    pub until: Timestamp,
    /// The lease's name, which is unique.
    pub lease: &'a str,
}

/// A leased delivery.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The delivery's id.
    pub id: i64,
    /// The event's.
    pub event_id: String,
    /// The model that the event is about; a notice is about none.
    pub model: Option<Model>,
    /// The attempts so far.
    pub attempts: u32,
    /// The event's payload.
    pub payload: String,
}

/// The result of a leased delivery.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The delivery's id.
    pub delivery: i64,
    /// The lease under which the delivery was worked on.
    pub lease: Arc<str>,
    /// The time of the result.
    pub now: Timestamp,
    /// The result.
    pub outcome: LeaseOutcome,
}

/// The end of the work under a lease.
#[derive(Debug, Clone)]
pub enum LeaseOutcome {
    /// An attempt was made.
    Attempted(Attempted),
    /// The endpoint's settings leave the event out. Final, without an attempt.
    Filtered,
    /// No attempt was made. The delivery is due again at once.
    Released {
        /// The number of attempts before this lease.
        earlier_attempts: u32,
    },
}

/// An attempt and its consequences.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// The attempt.
    pub attempt: NewAttempt,
    /// The delivery's next state.
    pub verdict: Verdict,
    /// The message that was sent, if it differs from the event's payload.
    pub sent: Option<String>,
    /// The alerts that are written in the same transaction.
    pub notices: Vec<Notice>,
}

/// The state of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint accepted the message. Final.
    Delivered,
    /// The attempt failed, and the next one is due at this time.
    RetryAt(Timestamp),
    /// The attempt failed, and there is no other. Final until the delivery is replayed.
    Failed,
}

/// A notice about an endpoint, for another endpoint.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The event's id.
    pub id: String,
    /// What happened: `delivery_failed`, `endpoint_failing`, `endpoint_recovered`.
    pub event: &'static str,
    /// The endpoint that gets the notice.
    pub endpoint: &'static str,
    /// JSON.
    pub payload: String,
    /// When it happened.
    pub at: Timestamp,
}

/// A new row of `relay_attempts`.
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
    /// The error of the last attempt.
    pub error: String,
    /// The number of attempts.
    pub attempts: i32,
    /// When it is due; while it is leased, when the lease ends.
    pub due_at: Option<Timestamp>,
    /// When the event happened.
    pub created_at: Timestamp,
    /// When it was completed.
    pub completed_at: Option<Timestamp>,
    /// The payload as it was or will be sent; empty in a list.
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

/// Selects deliveries.
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

/// An endpoint's state in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// Its name.
    pub name: String,
    /// Since when it is paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// Why.
    pub pause_reason: String,
    /// The number of deliveries that wait or are leased.
    pub waiting: i64,
    /// The number of deliveries that were given up.
    pub failed: i64,
}

impl Settlement {
    /// Returns the delivery's next status.
    pub(super) fn status(&self) -> DeliveryStatus {
        match &self.outcome {
            LeaseOutcome::Attempted(attempted) => match attempted.verdict {
                Verdict::Delivered => DeliveryStatus::Delivered,
                Verdict::RetryAt(_) => DeliveryStatus::Retrying,
                Verdict::Failed => DeliveryStatus::Failed,
            },
            LeaseOutcome::Filtered => DeliveryStatus::Filtered,
            LeaseOutcome::Released {
                earlier_attempts: 0,
            } => DeliveryStatus::Pending,
            LeaseOutcome::Released { .. } => DeliveryStatus::Retrying,
        }
    }

    /// Returns the time of the next attempt, unless the status is final.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        match &self.outcome {
            LeaseOutcome::Attempted(attempted) => match attempted.verdict {
                Verdict::RetryAt(due_at) => Some(due_at),
                Verdict::Delivered | Verdict::Failed => None,
            },
            LeaseOutcome::Filtered => None,
            LeaseOutcome::Released { .. } => Some(self.now),
        }
    }

    /// Returns the time of completion, if the status is final.
    pub(super) fn completed_at(&self) -> Option<Timestamp> {
        self.due_at().is_none().then_some(self.now)
    }

    /// Returns the attempt, if one was made.
    pub(super) fn attempt(&self) -> Option<&NewAttempt> {
        self.attempted().map(|attempted| &attempted.attempt)
    }

    /// Returns the HTTP status of the response, if one arrived.
    pub(super) fn status_code(&self) -> Option<i32> {
        self.attempt()?.status_code.map(i32::from)
    }

    /// Returns the problem. Empty if there was none.
    pub(super) fn error(&self) -> &str {
        self.attempt().map_or("", |attempt| &attempt.error)
    }

    /// Returns the message that was sent, if it differs from the event's payload.
    pub(super) fn sent(&self) -> Option<&str> {
        self.attempted()?.sent.as_deref()
    }

    /// Returns the alerts that are written in the same transaction.
    pub(super) fn notices(&self) -> &[Notice] {
        self.attempted()
            .map_or(&[], |attempted| attempted.notices.as_slice())
    }

    fn attempted(&self) -> Option<&Attempted> {
        match &self.outcome {
            LeaseOutcome::Attempted(attempted) => Some(attempted),
            LeaseOutcome::Filtered | LeaseOutcome::Released { .. } => None,
        }
    }
}

impl NewAttempt {
    pub(super) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Returns the state that the column `status` names.
pub(super) fn parse_status(name: &str, id: i64) -> Result<DeliveryStatus, StoreError> {
    DeliveryStatus::from_name(name).ok_or_else(|| StoreError::Undecodable {
        table: "relay_deliveries",
        column: "status",
        id: id.to_string(),
        reason: "must be pending, leased, delivered, retrying, failed or filtered".to_owned(),
    })
}
