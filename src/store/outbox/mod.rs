//! The outbox: events, their deliveries to endpoints, and the attempts of each delivery.
//!
//! The column `due_at` is the time of the next attempt, or the end of the current lease. It is NULL when the delivery is
//! complete. So one partial index finds all due deliveries, and a killed replica needs no clean-up: its leases become due.

pub(super) mod event;
pub(super) mod router;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::Model;
use crate::domain::timestamp::Timestamp;

/// The outbox: leases due deliveries, records their results, and pauses endpoints.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Leases due deliveries, the longest due first, and returns them in the order of their ids. Leases none while the endpoint
    /// is paused. Several processes may call this at once: each delivery is leased to only one of them.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<LeasedDelivery>, StoreError>;

    /// Records the results of leased deliveries in one transaction. Returns the number of lost leases. A delivery whose lease was
    /// lost stays unchanged, but its attempt is stored.
    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError>;

    /// Pauses an endpoint: it receives no deliveries until it is resumed. A paused endpoint keeps its first reason.
    async fn pause(&self, endpoint: &str, reason: &str, now: Timestamp) -> Result<(), StoreError>;

    /// Resumes an endpoint that was paused for this reason; `None` means any reason. Returns whether it did. Waiting deliveries
    /// keep their due times, so overdue ones are sent at once.
    async fn resume(&self, endpoint: &str, reason: Option<&str>) -> Result<bool, StoreError>;
}

/// The catalog of deliveries: lists and replays them.
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

    /// Makes completed deliveries due again, and counts their attempts from 0. Returns the number of deliveries.
    async fn replay(&self, filter: &DeliveryFilter, now: Timestamp) -> Result<u64, StoreError>;

    /// Returns the endpoints that are paused or have waiting or failed deliveries, in the order of their names.
    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError>;
}

/// A worker's request for deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// The maximum number of deliveries to lease.
    pub limit: usize,
    /// True to lease a delivery only when all earlier ones about the same image are complete.
    pub ordered: bool,
    /// The current time. Deliveries that are due then are leased.
    pub now: Timestamp,
    /// The end of the lease.
    pub until: Timestamp,
    /// The unique name of the lease.
    pub lease: &'a str,
}

/// A leased delivery.
#[derive(Debug, Clone)]
pub struct LeasedDelivery {
    /// The delivery's id.
    pub id: i64,
    /// The event's id.
    pub event_id: String,
    /// The model of the event; `None` for an alert.
    pub model: Option<Model>,
    /// The number of attempts so far.
    pub attempts: u32,
    /// The event's payload.
    pub payload: String,
}

/// The result of a leased delivery.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The delivery's id.
    pub delivery: i64,
    /// The name of the lease.
    pub lease: Arc<str>,
    /// The time of the result.
    pub now: Timestamp,
    /// The result.
    pub result: LeaseResult,
}

/// The result of the work under a lease.
#[derive(Debug, Clone)]
pub enum LeaseResult {
    /// An attempt was made.
    Attempted(FinishedAttempt),
    /// The endpoint's settings exclude the event. Final, without an attempt.
    Filtered,
    /// No attempt was made. The delivery is due again at once.
    Released {
        /// The number of attempts before this lease.
        earlier_attempts: u32,
    },
}

/// An attempt that has ended, with its effects.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    /// The attempt.
    pub attempt: NewAttempt,
    /// The state of the delivery after the attempt.
    pub next_state: NextState,
    /// The payload that was sent, if it differs from the event's payload.
    pub sent_payload: Option<String>,
    /// The alerts that are written in the same transaction.
    pub alerts: Vec<Alert>,
}

/// The state that an attempt gives to its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextState {
    /// The endpoint accepted the event. Final.
    Delivered,
    /// The attempt failed, and the next one is due at this time.
    RetryAt(Timestamp),
    /// The attempt failed, and was the last. Final until the delivery is replayed.
    Failed,
}

/// An alert about an endpoint, for another endpoint.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The event's id.
    pub id: String,
    /// The name of the alert: `delivery_failed`, `endpoint_failing` or `endpoint_recovered`.
    pub event: &'static str,
    /// The endpoint that receives the alert.
    pub endpoint: &'static str,
    /// The payload, as JSON.
    pub payload: String,
    /// The time of the alert.
    pub at: Timestamp,
}

/// A new row of `relay_attempts`.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The start of the attempt.
    pub started_at: Timestamp,
    /// The duration.
    pub duration: Duration,
    /// The HTTP status of the response, if one arrived.
    pub status_code: Option<u16>,
    /// The error; empty if the attempt succeeded.
    pub error: String,
}

/// A row of `relay_deliveries`, with its event.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The delivery's id.
    pub id: i64,
    /// The event's id.
    pub event_id: String,
    /// The event's name: `created`, `updated`, `deleted` or an alert's name.
    pub event: String,
    /// The model's label.
    pub model: String,
    /// Cloudflare's id of the image; `None` if the event has no image.
    pub image: Option<String>,
    /// The endpoint's name.
    pub endpoint: String,
    /// The status of the delivery.
    pub status: DeliveryStatus,
    /// The HTTP status of the last response.
    pub status_code: Option<i32>,
    /// The error of the last attempt.
    pub error: String,
    /// The number of attempts.
    pub attempts: i32,
    /// The time of the next attempt; while leased, the end of the lease.
    pub due_at: Option<Timestamp>,
    /// The time of the event.
    pub created_at: Timestamp,
    /// The time of completion.
    pub completed_at: Option<Timestamp>,
    /// The payload that was or will be sent; empty in a list.
    pub payload: String,
}

/// A row of `relay_attempts`.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The number of the attempt, from 1.
    pub number: i32,
    /// The start of the attempt.
    pub started_at: Timestamp,
    /// The duration in milliseconds.
    pub duration_ms: i64,
    /// The HTTP status of the response, if one arrived.
    pub status_code: Option<i32>,
    /// The error; empty if the attempt succeeded.
    pub error: String,
}

/// A selection of deliveries. A field that is `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// The delivery's id.
    pub id: Option<i64>,
    /// The endpoint's name.
    pub endpoint: Option<String>,
    /// The status of the delivery.
    pub status: Option<DeliveryStatus>,
    /// The earliest time of the event.
    pub since: Option<Timestamp>,
}

/// The stored state of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// The endpoint's name.
    pub name: String,
    /// The time of the pause; `None` if the endpoint is not paused.
    pub paused_at: Option<Timestamp>,
    /// The reason of the pause.
    pub pause_reason: String,
    /// The number of waiting or leased deliveries.
    pub waiting: i64,
    /// The number of failed deliveries.
    pub failed: i64,
}

impl Settlement {
    /// Returns the status of the delivery after this settlement.
    pub(super) fn status(&self) -> DeliveryStatus {
        match &self.result {
            LeaseResult::Attempted(attempted) => match attempted.next_state {
                NextState::Delivered => DeliveryStatus::Delivered,
                NextState::RetryAt(_) => DeliveryStatus::Retrying,
                NextState::Failed => DeliveryStatus::Failed,
            },
            LeaseResult::Filtered => DeliveryStatus::Filtered,
            LeaseResult::Released {
                earlier_attempts: 0,
            } => DeliveryStatus::Pending,
            LeaseResult::Released { .. } => DeliveryStatus::Retrying,
        }
    }

    /// Returns the time of the next attempt, unless the status is final.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        match &self.result {
            LeaseResult::Attempted(attempted) => match attempted.next_state {
                NextState::RetryAt(due_at) => Some(due_at),
                NextState::Delivered | NextState::Failed => None,
            },
            LeaseResult::Filtered => None,
            LeaseResult::Released { .. } => Some(self.now),
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

    /// Returns the error of the attempt; empty if there was none.
    pub(super) fn error(&self) -> &str {
        self.attempt().map_or("", |attempt| &attempt.error)
    }

    /// Returns the payload that was sent, if it differs from the event's payload.
    pub(super) fn sent_payload(&self) -> Option<&str> {
        self.attempted()?.sent_payload.as_deref()
    }

    /// Returns the alerts that are written in the same transaction.
    pub(super) fn alerts(&self) -> &[Alert] {
        self.attempted()
            .map_or(&[], |attempted| attempted.alerts.as_slice())
    }

    fn attempted(&self) -> Option<&FinishedAttempt> {
        match &self.result {
            LeaseResult::Attempted(attempted) => Some(attempted),
            LeaseResult::Filtered | LeaseResult::Released { .. } => None,
        }
    }
}

impl NewAttempt {
    pub(super) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Parses the column `status`.
pub(super) fn parse_status(name: &str, id: i64) -> Result<DeliveryStatus, StoreError> {
    DeliveryStatus::from_name(name).ok_or_else(|| StoreError::Undecodable {
        table: "relay_deliveries",
        column: "status",
        id: id.to_string(),
        reason: "must be pending, leased, delivered, retrying, failed or filtered".to_owned(),
    })
}
