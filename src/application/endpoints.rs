//! The actions of an operator on endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::{ActionError, Context};
use crate::clock::Clock;
use crate::relay::{EndpointTester, Endpoints, PAUSED_BY_SETTING, Preview};
use crate::store::{EndpointState, Pause};

/// The value of `pause_reason` when an operator paused an endpoint.
const PAUSED_BY_OPERATOR: &str = "paused by an operator";

/// Returns the endpoints, sorted by name: all configured ones, and others that have deliveries or are paused.
pub(crate) async fn list(context: &Context) -> Result<Vec<EndpointView>, ActionError> {
    let states = states(context).await?;
    let configured: BTreeSet<&str> = context.endpoints.names().collect();
    let stored = states.keys().map(String::as_str).collect();
    let names = configured.union(&stored);
    let views = names.map(|name| {
        let is_configured = configured.contains(name);
        EndpointView::new(name, is_configured, states.get(*name))
    });
    Ok(views.collect())
}

/// Pauses an endpoint. Nothing is sent to it until it is resumed.
pub(crate) async fn pause(context: &Context, name: &str) -> Result<(), ActionError> {
    require_configured(&context.endpoints, name)?;
    let pause = Pause {
        endpoint: name,
        reason: PAUSED_BY_OPERATOR,
        now: context.clock.read(),
        alert: None,
    };
    context.store.outbox.pause(&pause).await?;
    Ok(())
}

/// Resumes a paused endpoint. Fails if the setting `paused` pauses it.
pub(crate) async fn resume(context: &Context, name: &str) -> Result<Resumed, ActionError> {
    require_configured(&context.endpoints, name)?;
    let states = states(context).await?;
    let state = states.get(name);
    if state.is_some_and(|state| state.pause_reason == PAUSED_BY_SETTING) {
        return Err(ActionError::PausedBySettings(name.to_owned()));
    }
    Ok(if context.store.outbox.resume(name, None).await? {
        Resumed::Resumed
    } else {
        Resumed::WasNotPaused
    })
}

/// Sends a sample event to an endpoint once, even if it is paused. Returns the response.
pub(crate) async fn test(
    endpoints: &Endpoints,
    name: &str,
    clock: Arc<dyn Clock>,
) -> Result<String, ActionError> {
    let tester = tester(endpoints, name, clock)?;
    let result = tester.send(&tester.sample()).await;
    let response = result.map_err(|error| ActionError::NothingToSend(error.to_string()))?;
    response.map_err(|reason| ActionError::TestFailed {
        endpoint: name.to_owned(),
        reason,
    })
}

/// Returns the message that an endpoint would receive for an event. The default is a sample event.
pub(crate) async fn preview(
    endpoints: &Endpoints,
    name: &str,
    event: Option<String>,
    clock: Arc<dyn Clock>,
) -> Result<Preview, ActionError> {
    let tester = tester(endpoints, name, clock)?;
    let event = event.unwrap_or_else(|| tester.sample());
    let preview = tester.preview(&event).await;
    preview.map_err(|error| ActionError::NothingToSend(error.to_string()))
}

pub(super) fn require_configured(endpoints: &Endpoints, name: &str) -> Result<(), ActionError> {
    if endpoints.contains(name) {
        Ok(())
    } else {
        Err(ActionError::EndpointNotConfigured(name.to_owned()))
    }
}

fn tester(
    endpoints: &Endpoints,
    name: &str,
    clock: Arc<dyn Clock>,
) -> Result<EndpointTester, ActionError> {
    let tester = EndpointTester::new(endpoints, name, clock);
    tester.ok_or_else(|| ActionError::EndpointNotConfigured(name.to_owned()))
}

async fn states(context: &Context) -> Result<BTreeMap<String, EndpointState>, ActionError> {
    let states = context.store.delivery_catalog.endpoint_states().await?;
    let states = states.into_iter();
    Ok(states.map(|state| (state.name.clone(), state)).collect())
}

/// The result of resuming an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumed {
    Resumed,
    WasNotPaused,
}

/// An endpoint with its state and its numbers of deliveries.
#[derive(Debug, Serialize)]
pub(crate) struct EndpointView {
    pub(crate) name: String,
    /// `active`, `paused` or `not configured`. Deliveries for an endpoint that is not configured are not sent.
    pub(crate) state: &'static str,
    pub(crate) waiting: i64,
    pub(crate) failed: i64,
    pub(crate) paused_at: Option<String>,
    pub(crate) pause_reason: String,
}

impl EndpointView {
    fn new(name: &str, is_configured: bool, state: Option<&EndpointState>) -> Self {
        let paused_at = state.and_then(|state| state.paused_at);
        Self {
            name: name.to_owned(),
            state: match (is_configured, paused_at) {
                (false, _) => "not configured",
                (true, Some(_)) => "paused",
                (true, None) => "active",
            },
            waiting: state.map_or(0, |state| state.waiting),
            failed: state.map_or(0, |state| state.failed),
            paused_at: paused_at.map(|time| time.to_string()),
            pause_reason: state.map_or_else(String::new, |state| state.pause_reason.clone()),
        }
    }
}
