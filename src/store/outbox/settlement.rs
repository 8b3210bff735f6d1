//! Settlements: the results of the work under a lease, and their values in the columns.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::ClockReading;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::timestamp::Timestamp;

/// The result of a leased delivery.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The delivery's id.
    pub delivery: i64,
    /// The name of the lease.
    pub lease: Arc<str>,
    /// The time of the result.
    pub now: ClockReading,
    /// Whether the endpoint is ordered. When the delivery is complete, the next one of its image becomes due.
    pub ordered: bool,
    /// The result.
    pub result: LeaseResult,
}

/// The result of the work under a lease.
#[derive(Debug, Clone)]
pub enum LeaseResult {
    /// An attempt was made.
    Attempted(FinishedAttempt),
    /// No further attempt is made, because too many leases expired. Final until the delivery is replayed.
    GivenUp(GivenUp),
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

/// The end of a delivery without a further attempt. The claim has stored the error.
#[derive(Debug, Clone)]
pub struct GivenUp {
    /// The alerts that are written in the same transaction.
    pub alerts: Vec<Alert>,
}

/// The state that an attempt gives to its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextState {
    /// The endpoint accepted the event. Final.
    Delivered,
    /// The attempt failed, and the next one is due after this wait.
    RetryAfter(Duration),
    /// The attempt failed, and was the last. Final until the delivery is replayed.
    Failed,
}

/// An alert about an endpoint, for another endpoint.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The event's id.
    pub id: String,
    /// The name of the alert, such as `delivery_failed` or `endpoint_failing`.
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

impl Settlement {
    /// Returns the status of the delivery after this settlement.
    pub(in crate::store) fn status(&self) -> DeliveryStatus {
        match &self.result {
            LeaseResult::Attempted(attempted) => match attempted.next_state {
                NextState::Delivered => DeliveryStatus::Delivered,
                NextState::RetryAfter(_) => DeliveryStatus::Retrying,
                NextState::Failed => DeliveryStatus::Failed,
            },
            LeaseResult::GivenUp(_) => DeliveryStatus::Failed,
            LeaseResult::Filtered => DeliveryStatus::Filtered,
            LeaseResult::Released {
                earlier_attempts: 0,
            } => DeliveryStatus::Pending,
            LeaseResult::Released { .. } => DeliveryStatus::Retrying,
        }
    }

    /// Returns the wait before the next attempt, unless the status is final.
    pub(in crate::store) fn wait(&self) -> Option<Duration> {
        match &self.result {
            LeaseResult::Attempted(attempted) => match attempted.next_state {
                NextState::RetryAfter(wait) => Some(wait),
                NextState::Delivered | NextState::Failed => None,
            },
            LeaseResult::GivenUp(_) | LeaseResult::Filtered => None,
            LeaseResult::Released { .. } => Some(Duration::ZERO),
        }
    }

    /// Returns the time of completion, if the status is final.
    pub(in crate::store) fn completed_at(&self) -> Option<Timestamp> {
        self.wait().is_none().then_some(self.now.time())
    }

    /// Returns whether the settlement may make the next delivery of an image due.
    pub(in crate::store) fn completes_in_order(&self) -> bool {
        self.ordered && self.wait().is_none()
    }

    /// Returns the attempt, if one was made.
    pub(in crate::store) fn attempt(&self) -> Option<&NewAttempt> {
        self.attempted().map(|attempted| &attempted.attempt)
    }

    /// Returns the HTTP status of the response, if one arrived.
    pub(in crate::store) fn status_code(&self) -> Option<i32> {
        self.attempt()?.status_code.map(i32::from)
    }

    /// Returns the error of the attempt; empty if there was none.
    pub(in crate::store) fn error(&self) -> &str {
        self.attempt().map_or("", |attempt| &attempt.error)
    }

    /// Returns the payload that was sent, if it differs from the event's payload.
    pub(in crate::store) fn sent_payload(&self) -> Option<&str> {
        self.attempted()?.sent_payload.as_deref()
    }

    /// Returns the alerts that are written in the same transaction.
    pub(in crate::store) fn alerts(&self) -> &[Alert] {
        match &self.result {
            LeaseResult::Attempted(attempted) => &attempted.alerts,
            LeaseResult::GivenUp(given_up) => &given_up.alerts,
            LeaseResult::Filtered | LeaseResult::Released { .. } => &[],
        }
    }

    fn attempted(&self) -> Option<&FinishedAttempt> {
        match &self.result {
            LeaseResult::Attempted(attempted) => Some(attempted),
            LeaseResult::GivenUp(_) | LeaseResult::Filtered | LeaseResult::Released { .. } => None,
        }
    }
}

impl NewAttempt {
    pub(in crate::store) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}
