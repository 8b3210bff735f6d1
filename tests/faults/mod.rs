//! Faults injected under load. Every scenario checks that:
//!
//! - every 200 has its row and its entries in the audit log, and every parked notification is
//!   applied;
//! - nothing is applied twice, and no row moves back;
//! - every change is published;
//! - files, tasks and memory stay bounded;
//! - the service recovers without a restart.
//!
//! `make test` injects each fault once. `make soak` repeats them for `MINUTES`.

mod clients;
mod clock;
mod expectations;
mod fault;
mod load;
mod report;
mod scenario;
mod soak;
