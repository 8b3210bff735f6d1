//! The rules of the product, as pure values and functions.
//!
//! This module does no I/O, does not wait, reads no clock and knows no wire format: no tokio, serde, sqlx or axum. Other modules
//! convert their formats into these types. The store writes the changes that [`transition`](transition::transition) decides.

pub(crate) mod audit;
pub mod delivery;
pub mod detail;
pub mod event;
pub mod id;
pub mod image;
pub mod import;
pub mod json;
pub(crate) mod named;
pub mod notification;
pub mod outcome;
pub mod precedence;
pub mod rejection;
pub mod timestamp;
pub mod transition;
