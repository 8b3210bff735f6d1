//! The statements that are the same on both databases.
//!
//! Each backend mounts this folder as a module, `postgres::shared` and `sqlite::shared`. Its code uses the backend's types
//! through `super::columns`. So each statement is written once, as a literal.

pub(super) mod adoption;
mod call_limit;
mod catalog;
mod deliveries;
mod diagnostics;
mod inbox;
mod lookup_pages;
mod lookups;
mod outbox;
mod rejection_catalog;
mod rejections;
mod retention;
mod schema;
mod transfer;
mod upload_requests;

use super::{
    claim as claim_statements, columns, outbox as outbox_statements,
    rejections as rejection_statements, schema as schema_statements, tables as table_statements,
};
