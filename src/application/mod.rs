//! The actions of an operator: list, show, add, delete, reprocess, replay, pause and more.
//!
//! ```text
//! cli ──► images, rejections, deliveries, endpoints, retention, schema, transfer ──► store
//!                  │                      │                       │
//!                  ▼                      ▼                       ▼
//!       receiver::ParkedApplier   relay::EndpointTester   retention::Pruner
//! ```
//!
//! An action is a function. It takes typed arguments and returns a view, a result or an
//! [`ActionError`]. It does not print, parse a command line or read the configuration.

pub(crate) mod cloudflare;
pub(crate) mod deliveries;
pub(crate) mod doctor;
pub(crate) mod endpoints;
mod error;
pub(crate) mod images;
pub(crate) mod reconcile;
pub(crate) mod rejections;
pub(crate) mod retention;
pub(crate) mod schema;
pub(crate) mod transfer;
pub(crate) mod uploads;

use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};

use crate::clock::Clock;
use crate::receiver;
use crate::relay::Endpoints;
use crate::store::Store;

pub(crate) use error::ActionError;

/// The database, the clock and the sections of the configuration that actions need.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) webhook: receiver::Settings,
    pub(crate) endpoints: Endpoints,
    pub(crate) retention: crate::retention::Settings,
    pub(crate) reconcile: crate::reconcile::Settings,
    /// Whether the running service looks up images at Cloudflare.
    pub(crate) can_look_up: bool,
}

/// Returns stored JSON unchanged. Invalid JSON becomes a string, because SQLite accepts any text.
fn raw_json(stored: &str) -> Box<RawValue> {
    RawValue::from_string(stored.to_owned())
        .or_else(|_| to_raw_value(stored))
        .expect("a string can always be written as JSON")
}
