//! The import and the export of images as CSV or JSON Lines.
//!
//! ```text
//! file ──► source: LineReader ──► row::parse ──► batches ──► import ──► store
//! store ──► export ──► text
//! ```
//!
//! A line has the columns of `cloudflare_images` under their names. [`Source`] can have another origin than a file.

mod columns;
mod csv;
mod error;
mod export;
mod import;
mod json_lines;
mod row;
mod source;

pub(crate) use error::InvalidLine;
pub(crate) use export::{Format, export};
pub(crate) use import::{ImportObserver, ImportTotals, import};
pub(crate) use source::Source;
