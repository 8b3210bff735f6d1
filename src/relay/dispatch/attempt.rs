//! One attempt: build the message, send it, and decide what happens to the delivery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::alerts::{Alerts, FailedDeliveryAlert};
use super::circuit_breaker::{BreakerChange, CircuitBreaker};
use super::purpose::Purpose;
use crate::clock::{Clock, ClockReading};
use crate::domain::delivery::{GONE, RetryDecision};
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::relay::endpoint::Endpoint;
use crate::relay::payload::{BuildError, Built};
use crate::relay::transport::{Message, SendOutcome};
use crate::store::{
    Alert, FinishedAttempt, GivenUp, LEASE_EXPIRED, LeaseResult, LeasedDelivery, NewAttempt,
    NextState, Outbox, Pause, Settlement,
};
use crate::telemetry::chain;

/// The reason that `endpoints list` shows after a 410 response.
pub(super) const PAUSED_BY_ENDPOINT: &str = "the endpoint answered 410 Gone";

pub(super) struct AttemptRunner {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) breaker: Arc<CircuitBreaker>,
    pub(super) alerts: Alerts,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) clock: Arc<dyn Clock>,
    /// The runtime for database operations, which must not run on low-priority threads.
    pub(super) main_runtime: Handle,
}

/// The result of an attempt's call. If the message could not be built, there was no call, and the outcome has the error of the build.
struct CallResult {
    event_id: String,
    /// The number of the attempt, from 1.
    attempt: u32,
    /// The body, if the message could be built.
    body: Option<Bytes>,
    outcome: SendOutcome,
}

impl AttemptRunner {
    /// Returns the settlement that releases a delivery without an attempt. The delivery is due again at once.
    pub(super) fn release(
        &self,
        delivery: i64,
        earlier_attempts: u32,
        lease: Arc<str>,
    ) -> Settlement {
        Settlement {
            delivery,
            lease,
            now: self.clock.read(),
            ordered: self.endpoint.is_ordered,
            result: LeaseResult::Released { earlier_attempts },
        }
    }

    /// Returns the settlement that gives a delivery up without a further attempt. `None` if the delivery gets an attempt.
    ///
    /// Handling the message may have ended the process each time a lease expired. So this neither builds nor sends the message.
    pub(super) fn give_up(&self, leased: &LeasedDelivery, lease: &Arc<str>) -> Option<Settlement> {
        let retry = &self.endpoint.retry;
        if !leased.lease_expired || retry.retries_after_lost_lease(leased.attempts) {
            return None;
        }
        let now = self.clock.now();
        let call = CallResult {
            event_id: leased.event_id.clone(),
            attempt: leased.attempts,
            body: None,
            outcome: SendOutcome::no_response(LEASE_EXPIRED.to_owned()),
        };
        let alerts = self.log_failed_delivery(&call, now).into_iter().collect();
        Some(Settlement {
            delivery: leased.id,
            lease: Arc::clone(lease),
            now: self.clock.read(),
            ordered: self.endpoint.is_ordered,
            result: LeaseResult::GivenUp(GivenUp { alerts }),
        })
    }

    /// Makes an attempt, unless `when` or `transform` filters out the event. Returns the settlement.
    pub(super) async fn attempt(
        &self,
        leased: LeasedDelivery,
        lease: Arc<str>,
        purpose: Purpose,
    ) -> Settlement {
        let (started_at, started) = (self.clock.now(), Instant::now());
        let delivery = leased.id;
        let attempt = leased.attempts.saturating_add(1);
        let event_id = leased.event_id;
        let builder = &self.endpoint.message_builder;
        let (body, sent_payload) = match builder.build(leased.payload, leased.model).await {
            Ok(Built::FilteredOut) => {
                return Settlement {
                    delivery,
                    lease,
                    now: self.clock.read(),
                    ordered: self.endpoint.is_ordered,
                    result: LeaseResult::Filtered,
                };
            }
            Ok(Built::Unchanged(text)) => (Ok(Bytes::from(text)), None),
            Ok(Built::Transformed(text)) => (Ok(Bytes::from(text.clone())), Some(text)),
            Err(error) => (Err(error), None),
        };
        let call = self.call(event_id, attempt, body).await;
        let duration = started.elapsed();
        let now = self.clock.read();
        let (next_state, mut alerts) = self.conclude(&call, now).await;
        if (purpose, next_state) == (Purpose::PauseProbe, NextState::Delivered) {
            alerts.extend(self.resume(&call, now.time()).await);
        }
        let attempt = NewAttempt {
            number: call.attempt,
            started_at,
            duration,
            status_code: call.outcome.status_code,
            error: call.outcome.error,
        };
        Settlement {
            delivery,
            lease,
            now,
            ordered: self.endpoint.is_ordered,
            result: LeaseResult::Attempted(FinishedAttempt {
                attempt,
                next_state,
                sent_payload,
                alerts,
            }),
        }
    }

    /// Sends the message, if it could be built.
    async fn call(
        &self,
        event_id: String,
        attempt: u32,
        body: Result<Bytes, BuildError>,
    ) -> CallResult {
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                return CallResult {
                    event_id,
                    attempt,
                    body: None,
                    outcome: SendOutcome::no_response(error.to_string()),
                };
            }
        };
        let message = Message {
            event_id,
            sent_at: self.clock.now(),
            body,
        };
        let outcome = self.endpoint.send(&message).await;
        CallResult {
            event_id: message.event_id,
            attempt,
            body: Some(message.body),
            outcome,
        }
    }

    /// Decides about the delivery after a call. Returns its next state and the alerts that are due.
    async fn conclude(&self, call: &CallResult, now: ClockReading) -> (NextState, Vec<Alert>) {
        let (endpoint, outcome) = (&self.endpoint, &call.outcome);
        let decision = endpoint
            .retry
            .next(call.attempt, outcome.result, random::fraction());
        let change = self.record_in_breaker(call, decision);
        let mut alerts = Vec::new();
        let next_state = match decision {
            RetryDecision::Delivered => NextState::Delivered,
            RetryDecision::Retry(wait) => {
                self.log_retry(call, wait);
                NextState::RetryAfter(wait)
            }
            RetryDecision::Pause => {
                self.pause(call, now).await;
                NextState::RetryAfter(Duration::ZERO)
            }
            RetryDecision::Fail => {
                alerts.extend(self.log_failed_delivery(call, now.time()));
                NextState::Failed
            }
        };
        if let Some(change) = change {
            let (name, error) = (&endpoint.name, &outcome.error);
            let alert = self
                .alerts
                .on_health_change(change, name, error, now.time());
            alerts.extend(alert);
        }
        (next_state, alerts)
    }

    /// Records the call in the circuit breaker. Records nothing if the message could not be built, because the endpoint was not
    /// called.
    fn record_in_breaker(
        &self,
        call: &CallResult,
        decision: RetryDecision,
    ) -> Option<BreakerChange> {
        call.body.as_ref()?;
        Some(match decision {
            RetryDecision::Delivered => self.breaker.record_success(),
            RetryDecision::Retry(_) | RetryDecision::Fail | RetryDecision::Pause => {
                self.breaker.record_failure()
            }
        })
    }

    fn log_retry(&self, call: &CallResult, wait: Duration) {
        tracing::info!(
            endpoint = self.endpoint.name,
            event = call.event_id,
            attempt = call.attempt,
            status = call.outcome.status_code,
            error = call.outcome.error,
            "delivery attempt failed, retrying in {} s",
            wait.as_secs()
        );
    }

    /// Pauses the endpoint. If that fails, the next attempt gets the same response and tries again.
    async fn pause(&self, call: &CallResult, now: ClockReading) {
        let (outbox, name) = (Arc::clone(&self.outbox), self.endpoint.name.clone());
        let alert = self.alerts.on_pause(&name, PAUSED_BY_ENDPOINT, now.time());
        let (event, attempt) = (call.event_id.clone(), call.attempt);
        // A database connection that is opened on a low-priority thread would stay on that thread.
        let pausing = self.main_runtime.spawn(async move {
            let pause = Pause {
                endpoint: &name,
                reason: PAUSED_BY_ENDPOINT,
                now,
                alert,
            };
            match outbox.pause(&pause).await {
                Ok(true) => tracing::warn!(
                    endpoint = name,
                    event,
                    attempt,
                    status = GONE,
                    "endpoint answered 410 Gone and is paused; it is probed once an hour, and `endpoints resume` resumes it"
                ),
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    endpoint = name,
                    error = chain(&error),
                    "endpoint could not be paused, retrying with the next delivery"
                ),
            }
        });
        // The panic hook logs a panic. Here it counts as a failed pause.
        let _ended = pausing.await;
    }

    /// Resumes the endpoint after a successful probe. Returns the alert about it. If that fails, the next probe tries again.
    async fn resume(&self, call: &CallResult, now: Timestamp) -> Option<Alert> {
        let (outbox, name) = (Arc::clone(&self.outbox), self.endpoint.name.clone());
        let event = call.event_id.clone();
        let resuming = self.main_runtime.spawn(async move {
            let resumed = outbox.resume(&name, Some(PAUSED_BY_ENDPOINT)).await;
            match &resumed {
                Ok(true) => tracing::info!(
                    endpoint = name,
                    event,
                    "endpoint accepted a probe and is resumed"
                ),
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    endpoint = name,
                    error = chain(error),
                    "endpoint could not be resumed, retrying with the next probe"
                ),
            }
            resumed.unwrap_or(false)
        });
        let is_resumed = resuming.await.unwrap_or(false);
        let alert = is_resumed.then(|| self.alerts.on_resume(&self.endpoint.name, now));
        alert.flatten()
    }

    /// Logs a failed delivery and returns the alert about it.
    fn log_failed_delivery(&self, call: &CallResult, now: Timestamp) -> Option<Alert> {
        let (endpoint, outcome) = (&self.endpoint.name, &call.outcome);
        tracing::error!(
            endpoint,
            event = call.event_id,
            attempt = call.attempt,
            status = outcome.status_code,
            error = outcome.error,
            "delivery failed and is not retried; send it again with `deliveries replay`"
        );
        let message = call.body.as_deref();
        let failed = FailedDeliveryAlert {
            endpoint,
            error: &outcome.error,
            status_code: outcome.status_code,
            attempts: call.attempt,
            payload: message.and_then(|body| serde_json::from_slice(body).ok()),
        };
        self.alerts.on_failed_delivery(&failed, now)
    }
}
