//! The rules of the product, as pure values and functions.
//!
//! Nothing here does I/O, waits, reads a clock or knows a wire format: no tokio, serde, sqlx or axum. The edges translate
//! into these types, the store executes what [`transition`](transition::transition) decides.

pub(crate) mod audit;
pub mod delivery;
pub mod detail;
pub mod event;
pub mod id;
pub mod image;
pub mod json;
pub(crate) mod named;
pub mod notification;
pub mod outcome;
pub mod precedence;
pub mod rejection;
pub mod timestamp;
pub mod transition;
