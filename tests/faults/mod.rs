//! Breaking things on purpose, under load. The check is always the same: every 200 has its row and its rows of the audit trail, what
//! was parked is applied, nothing is applied twice, no row moves backwards, what changed is told, no file and no task is left behind, memory stays
//! bounded, and the service recovers without a restart.
//!
//! `make test` breaks each thing once; `make soak` goes on for as long as it is told.

mod clients;
mod clock;
mod expectations;
mod fault;
mod load;
mod report;
mod scenario;
mod soak;
