//! Telling somebody that others could not be told: what was given up, and which endpoint fails.
//!
//! A notice is an event like any other, written in the transaction that settles what it is about, for an endpoint of its own; never for the
//! one that fails.

use serde::Serialize;
use serde_json::value::RawValue;

use super::health::Turn;
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::store::Notice;

/// The endpoint that is told what was given up.
pub(super) const ON_FAILURE: &str = "on_failure";

/// The endpoint that is told which endpoints fail.
pub(super) const ALERTS: &str = "alerts";

/// What is told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Notices {
    /// Whether anybody is told what was given up.
    pub(super) failures: bool,
    /// After how many failures in a row somebody is told that an endpoint fails.
    pub(super) alert_after: Option<u32>,
}

/// A delivery that was given up.
#[derive(Serialize)]
pub(super) struct GivenUp<'a> {
    pub(super) endpoint: &'a str,
    pub(super) error: &'a str,
    pub(super) status_code: Option<u16>,
    pub(super) attempts: u32,
    /// The message, as it was sent the last time.
    pub(super) payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Fares<'a> {
    endpoint: &'a str,
    consecutive_failures: u32,
    error: &'a str,
}

#[derive(Serialize)]
struct Message<'a, T> {
    id: &'a str,
    event: &'a str,
    timestamp: String,
    #[serde(flatten)]
    about: T,
}

impl Notices {
    /// Tells that a delivery was given up.
    pub(super) fn given_up(self, given_up: &GivenUp<'_>, now: Timestamp) -> Option<Notice> {
        self.failures
            .then(|| notice(ON_FAILURE, "gave_up", given_up, now))
    }

    /// Tells that an endpoint fails, once, and that it does no more.
    pub(super) fn turned(
        self,
        turn: Turn,
        endpoint: &str,
        error: &str,
        now: Timestamp,
    ) -> Option<Notice> {
        let alert_after = self.alert_after?;
        let (event, consecutive_failures) = match turn {
            Turn::Failed(failures) if failures == alert_after => ("failing", failures),
            Turn::Recovered(failures) if failures >= alert_after => ("recovered", failures),
            Turn::Failed(_) | Turn::Recovered(_) => return None,
        };
        let fares = Fares {
            endpoint,
            consecutive_failures,
            error,
        };
        Some(notice(ALERTS, event, &fares, now))
    }
}

fn notice(
    endpoint: &'static str,
    event: &'static str,
    about: impl Serialize,
    now: Timestamp,
) -> Notice {
    let id = format!("evt_{}", random::uuid_v7().simple());
    let message = Message {
        id: &id,
        event,
        timestamp: now.to_string(),
        about,
    };
    let payload = serde_json::to_string(&message).expect("texts and numbers are JSON");
    Notice {
        id,
        event,
        endpoint,
        payload,
        at: now,
    }
}
