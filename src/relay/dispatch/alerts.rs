//! Alerts: events about failed deliveries and failing endpoints.
//!
//! The transaction that settles an attempt also writes the alerts that the attempt causes. An alert is then delivered like any other event. No alerts are created about
//! endpoints that receive alerts. Otherwise one failure could cause alerts without end.

use serde::Serialize;
use serde_json::value::RawValue;

use super::circuit_breaker::BreakerChange;
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::relay::settings::{ALERT_ENDPOINT, AlertPolicy, FAILURE_ENDPOINT};
use crate::store::Alert;

/// Creates the alerts that the settings ask for. `Alerts::default()` creates none.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::relay) struct Alerts {
    policy: AlertPolicy,
}

/// The alert about a failed delivery.
#[derive(Serialize)]
pub(super) struct FailedDeliveryAlert<'a> {
    pub(super) endpoint: &'a str,
    pub(super) error: &'a str,
    pub(super) status_code: Option<u16>,
    pub(super) attempts: u32,
    /// The message of the last attempt, if it could be built.
    pub(super) payload: Option<&'a RawValue>,
}

/// The alert about an endpoint that is failing or has recovered.
#[derive(Serialize)]
struct HealthAlert<'a> {
    endpoint: &'a str,
    consecutive_failures: u32,
    error: &'a str,
}

/// The alert about an endpoint that is paused because of its response, or resumed because of a probe.
#[derive(Serialize)]
struct PauseAlert<'a> {
    endpoint: &'a str,
    error: &'a str,
}

#[derive(Serialize)]
struct AlertPayload<'a, T> {
    id: &'a str,
    event: &'a str,
    timestamp: String,
    #[serde(flatten)]
    about: T,
}

impl Alerts {
    pub(in crate::relay) fn new(policy: AlertPolicy) -> Self {
        Self { policy }
    }

    /// Returns the alert about a failed delivery, if the policy asks for it.
    pub(super) fn on_failed_delivery(
        self,
        failed: &FailedDeliveryAlert<'_>,
        now: Timestamp,
    ) -> Option<Alert> {
        self.policy
            .reports_failed_deliveries
            .then(|| new_alert(FAILURE_ENDPOINT, "delivery_failed", failed, now))
    }

    /// Returns the alert that an attempt causes about the health of its endpoint, if one is due. An endpoint is failing
    /// when it reaches the configured number of consecutive failures, and recovers with the next success.
    pub(super) fn on_health_change(
        self,
        change: BreakerChange,
        endpoint: &str,
        error: &str,
        now: Timestamp,
    ) -> Option<Alert> {
        let threshold = self.policy.failure_threshold?;
        let (event, consecutive_failures) = match change {
            BreakerChange::Failed(failures) if failures == threshold => {
                ("endpoint_failing", failures)
            }
            BreakerChange::Succeeded(failures) if failures >= threshold => {
                ("endpoint_recovered", failures)
            }
            BreakerChange::Failed(_) | BreakerChange::Succeeded(_) => return None,
        };
        let about = HealthAlert {
            endpoint,
            consecutive_failures,
            error,
        };
        Some(new_alert(ALERT_ENDPOINT, event, &about, now))
    }
}

impl Alerts {
    /// Returns the alert about a pause, if the policy asks for alerts about endpoints.
    pub(super) fn on_pause(self, endpoint: &str, error: &str, now: Timestamp) -> Option<Alert> {
        self.on_pause_change("endpoint_paused", &PauseAlert { endpoint, error }, now)
    }

    /// Returns the alert about the end of a pause, if the policy asks for alerts about endpoints.
    pub(super) fn on_resume(self, endpoint: &str, now: Timestamp) -> Option<Alert> {
        let about = PauseAlert {
            endpoint,
            error: "",
        };
        self.on_pause_change("endpoint_resumed", &about, now)
    }

    fn on_pause_change(
        self,
        event: &'static str,
        about: &PauseAlert<'_>,
        now: Timestamp,
    ) -> Option<Alert> {
        self.policy.failure_threshold?;
        Some(new_alert(ALERT_ENDPOINT, event, about, now))
    }
}

fn new_alert(
    endpoint: &'static str,
    event: &'static str,
    about: impl Serialize,
    now: Timestamp,
) -> Alert {
    let id = format!("evt_{}", random::uuid_v7().simple());
    let payload = AlertPayload {
        id: &id,
        event,
        timestamp: now.to_string(),
        about,
    };
    let payload = serde_json::to_string(&payload).expect("strings and numbers are valid JSON");
    Alert {
        id,
        event,
        endpoint,
        payload,
        at: now,
    }
}
