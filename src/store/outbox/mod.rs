//! The outbox: events, their deliveries to endpoints, and the attempts of each delivery.
//!
//! The column `due_at` is the time of the next attempt, or the end of the current lease. It is NULL when the delivery is
//! complete. So one partial index finds all due deliveries, and a killed replica needs no clean-up: its leases become due.

pub(super) mod event;
pub(super) mod router;
mod settlement;

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::clock::ClockReading;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::Model;
use crate::domain::timestamp::Timestamp;

pub use settlement::{
    Alert, FinishedAttempt, GivenUp, LeaseResult, NewAttempt, NextState, Settlement,
};

/// The outbox: leases due deliveries, records their results, and pauses endpoints.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Leases due deliveries, the longest due first, and returns them in the order of their ids. Leases none while the endpoint
    /// is paused. Several processes may call this at once: each delivery is leased to only one of them.
    ///
    /// A delivery whose lease expired may have ended the process that had it. So the claim itself counts the lost lease as an
    /// attempt, before anything reads the delivery again.
    ///
    /// An ordered claim postpones blocked deliveries: those whose image has an earlier delivery that is not complete. The
    /// settlement of the earlier delivery makes the next one due. So no claim looks at a blocked delivery again and again.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, StoreError>;

    /// Makes up to `limit` postponed deliveries of an endpoint due, and returns their number. Only an ordered endpoint postpones
    /// deliveries, so an endpoint that is no longer ordered would deliver them late.
    async fn release_postponed(
        &self,
        endpoint: &str,
        now: ClockReading,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Records the results of leased deliveries in one transaction. A delivery whose lease was lost stays unchanged, but its
    /// attempt is stored. If a delivery of an ordered endpoint is complete, the next delivery of its image becomes due.
    ///
    /// Fails if the database suppressed the result of a delivery. A suppressed attempt or alert does not fail the results:
    /// otherwise each delivery would be sent again until it is given up.
    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, StoreError>;

    /// Leases one due delivery of an endpoint that was paused for the probe's reason, if no probe was made for the probe's
    /// interval. Several processes may call this at once: one of them makes the probe.
    async fn claim_probe(
        &self,
        probe: &PauseProbe<'_>,
        claim: &Claim<'_>,
    ) -> Result<Claimed, StoreError>;

    /// Pauses an endpoint: it receives no deliveries until it is resumed. A paused endpoint keeps its first reason. Returns whether
    /// the endpoint was not paused before, and only then writes the alert, in the same transaction.
    async fn pause(&self, pause: &Pause<'_>) -> Result<bool, StoreError>;

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

    /// Makes completed deliveries due again, and counts their attempts from 0.
    async fn replay(
        &self,
        filter: &DeliveryFilter,
        now: ClockReading,
    ) -> Result<Changed, StoreError>;

    /// Moves up to `limit` deliveries to another endpoint, and returns their number. They are due at once, and their attempts are
    /// counted from 0. Leased deliveries stay.
    async fn move_deliveries(&self, to: &MoveTarget, page: &Unsent) -> Result<u64, StoreError>;

    /// Deletes up to `limit` deliveries, and returns their number. Leased deliveries stay.
    async fn delete_deliveries(&self, page: &Unsent) -> Result<u64, StoreError>;

    /// Returns the number of deliveries that could be moved or deleted, on all pages.
    async fn count_unsent(&self, page: &Unsent) -> Result<u64, StoreError>;

    /// Returns the number of waiting or leased deliveries of each endpoint that has any.
    async fn waiting_deliveries(&self) -> Result<Vec<(String, i64)>, StoreError>;

    /// Returns the endpoints that are paused or have waiting or failed deliveries, in the order of their names.
    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError>;
}

/// The numbers of deliveries that an operator's command changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The deliveries that changed.
    pub changed: u64,
    /// The deliveries that a trigger or a policy of the database kept from changing.
    pub suppressed: u64,
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
    /// True to lease a delivery although the endpoint is paused.
    pub ignores_pause: bool,
    /// Which deliveries with an expired lease may be leased.
    pub expired_leases: ExpiredLeases,
    /// The current time. Deliveries that are due then are leased.
    pub now: ClockReading,
    /// The duration of the lease.
    pub duration: Duration,
    /// The unique name of the lease.
    pub lease: &'a str,
}

impl Claim<'_> {
    /// Returns the maximum number of due deliveries that the claim looks at.
    pub(super) fn max_seen(&self) -> i64 {
        let max_seen = if self.ordered {
            self.limit.max(MAX_SEEN_IN_ORDER)
        } else {
            self.limit
        };
        i64::try_from(max_seen).unwrap_or(i64::MAX)
    }
}

/// The number of due deliveries that an ordered claim looks at, even if it leases fewer. Otherwise a claim of one delivery would
/// postpone one blocked delivery.
const MAX_SEEN_IN_ORDER: usize = 256;

/// The time after which a postponed delivery is looked at again. Normally an earlier delivery makes it due before that. An
/// earlier delivery that an old release or another program completed does not.
pub(super) const POSTPONEMENT: Duration = Duration::from_hours(1);

/// A pause of an endpoint.
#[derive(Debug, Clone)]
pub struct Pause<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// The reason.
    pub reason: &'a str,
    /// The start of the pause.
    pub now: ClockReading,
    /// The alert about the pause.
    pub alert: Option<Alert>,
}

/// A probe of a paused endpoint.
#[derive(Debug, Clone, Copy)]
pub struct PauseProbe<'a> {
    /// The reason of pauses that are probed.
    pub reason: &'a str,
    /// The time between two probes.
    pub interval: Duration,
}

/// A page of the deliveries of an endpoint that are not delivered.
#[derive(Debug, Clone)]
pub struct Unsent {
    /// The endpoint's name.
    pub endpoint: String,
    /// Whether failed deliveries are included.
    pub with_failed: bool,
    /// The current time, which tells expired leases.
    pub now: ClockReading,
    /// The maximum number of deliveries.
    pub limit: u32,
}

/// The endpoint that receives moved deliveries.
#[derive(Debug, Clone)]
pub struct MoveTarget {
    /// The endpoint's name.
    pub endpoint: String,
    /// Whether the endpoint is ordered.
    pub ordered: bool,
}

/// The result of a claim.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// The leased deliveries.
    pub leased: Vec<LeasedDelivery>,
    /// The number of blocked deliveries that were postponed. If there are any, more deliveries may be due.
    pub postponed: usize,
    /// The number of due deliveries that the database kept from being leased or postponed.
    pub suppressed: usize,
}

/// The result of recording settlements.
#[derive(Debug, Default)]
pub struct Settled {
    /// The number of lost leases.
    pub lost_leases: usize,
    /// The error, if the database suppressed attempts or alerts. The results of the deliveries are recorded.
    pub suppressed: Option<StoreError>,
}

/// Which deliveries with an expired lease a claim may lease.
///
/// If such a delivery ends the process, each delivery that is leased at that moment counts an attempt. With one such delivery
/// at a time, only the one that ends the process counts again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredLeases {
    /// The delivery that is due the longest, if its lease expired.
    One,
    /// None, because the worker still has one.
    None,
}

/// The stored error of an attempt whose lease expired.
pub const LEASE_EXPIRED: &str = "the lease expired before the result was stored";

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
    /// Whether the lease before this one expired. The attempts include it.
    pub lease_expired: bool,
    /// The event's payload.
    pub payload: String,
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

/// Parses the column `status`.
pub(super) fn parse_status(name: &str, id: i64) -> Result<DeliveryStatus, StoreError> {
    DeliveryStatus::from_name(name).ok_or_else(|| StoreError::Undecodable {
        table: "relay_deliveries",
        column: "status",
        id: id.to_string(),
        reason: "must be pending, leased, delivered, retrying, failed or filtered".to_owned(),
    })
}
