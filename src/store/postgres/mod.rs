//! Postgres: a session, the statements that only Postgres has, and the statements that are the same on both databases.

mod columns;
mod connection_cache;
mod inbox;
mod outbox;
mod rejections;
mod schema;
mod session;

#[expect(
    clippy::duplicate_mod,
    reason = "the statements that are the same on both databases exist once"
)]
#[path = "../shared/mod.rs"]
mod shared;

pub(super) use session::Postgres;
