//! The conformance suite of the store. It tests the contract of each trait on every backend.

#[expect(dead_code, reason = "only the databases are needed here")]
#[path = "../support/mod.rs"]
mod support;

mod catalog;
mod deliveries;
mod diagnostics;
mod fixture;
mod inbox;
mod lookups;
mod notifications;
mod ordering;
mod outbox;
mod pauses;
mod rejection_catalog;
mod rejections;
mod retention;
mod schema;
mod statements;
mod suppression;
mod transfer;
mod upload_requests;
