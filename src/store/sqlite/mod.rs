//! The SQLite backend: its session, its own statements, and the statements that both backends share.

mod access;
pub(super) mod adoption;
mod checkpoints;
mod claim;
mod columns;
mod connections;
mod file;
mod inbox;
mod mounts;
mod outbox;
mod rejections;
mod result_code;
mod saved_wal;
mod schema;
mod session;
mod tables;
mod wal_keeper;

#[expect(
    clippy::duplicate_mod,
    reason = "the statements that are the same on both databases exist once"
)]
#[path = "../shared/mod.rs"]
mod shared;

#[cfg(test)]
mod tests;

pub(super) use session::Sqlite;
