//! The import and the export of images as CSV or JSON Lines, and the import of the images at Cloudflare.
//!
//! ```text
//! file ──► source: LineReader ──► row::parse ──┐
//! Cloudflare ──► account: list ────────────────┴► batches ──► import ──► store
//! store ──► export ──► text
//! ```
//!
//! A line of a file has the columns of `cloudflare_images` under their names.

mod account;
mod columns;
mod csv;
mod error;
mod export;
mod import;
mod json_lines;
mod row;
mod source;

pub(crate) use error::{InvalidLine, Origin};
pub(crate) use export::{Format, export};
pub(crate) use import::{ImportObserver, ImportTotals, import};
pub(crate) use source::Source;
