//! Dispatch: when and how often a delivery is sent.
//!
//! One worker per endpoint claims deliveries under a lease and passes them to its deliverer. The
//! deliverer waits for a call slot, attempts or releases the delivery, and sends the result to the
//! settler. One settler records the results of all endpoints. An arrow leads from a module to one that
//! it uses.
//!
//! ```text
//! worker ──► delivery ──► attempt ──► alerts
//!    │           │           │
//!    ├───────────┴───────────┴──► circuit_breaker
//!    └──► throttle ◄── settler ◄── delivery
//!            ▲
//!         backlog
//! ```

mod alerts;
mod attempt;
mod backlog;
mod circuit_breaker;
mod delivery;
mod low_priority_runtime;
mod pause_check;
mod purpose;
mod settler;
mod throttle;
mod worker;
mod worker_set;

pub(super) use alerts::Alerts;
pub(super) use backlog::BacklogWatch;
pub(super) use low_priority_runtime::LowPriorityRuntime;
pub(super) use settler::Settler;
pub(super) use throttle::RelayThrottle;
pub(crate) use worker::PAUSED_BY_SETTING;
pub(super) use worker::{Worker, WorkerContext};
pub(super) use worker_set::WorkerSet;
