//! The statements that are the same on both databases. This folder is mounted into each backend, as `postgres::shared` and as
//! `sqlite::shared`, and names the backend's types through `columns`. So each statement is a literal that exists once.

mod catalog;
mod deliveries;
mod inbox;
mod outbox;
mod rejection_catalog;
mod rejection_states;
mod retention;
mod schema;

use super::{
    columns, outbox as outbox_statements, rejections as rejection_statements,
    schema as schema_statements,
};
