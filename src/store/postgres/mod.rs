//! The Postgres backend: its session, its own statements, and the statements that both backends share.

mod adoption;
mod alteration;
mod claim;
mod columns;
mod connection;
mod connection_cache;
mod detected_mode;
mod inbox;
mod migrator;
mod outbox;
mod partitions;
mod pool;
mod pooler;
mod rejections;
mod schema;
mod session;
mod tables;

#[expect(
    clippy::duplicate_mod,
    reason = "the statements that are the same on both databases exist once"
)]
#[path = "../shared/mod.rs"]
mod shared;

pub(super) use session::Postgres;
