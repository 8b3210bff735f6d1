//! Looks up images at Cloudflare that have waited for their upload for long, and records what it finds.
//!
//! ```text
//! store::Lookups ── claim ──► cloudflare::Client ──► finding ──► store::Lookups ── record
//! ```
//!
//! A webhook can be lost. Cloudflare's API knows what became of each upload.

mod batch;
mod finding;
mod reconciler;
mod settings;
mod shared_budget;
mod task;

pub(crate) use batch::{FailedImage, Found, LookupFailed, Summary};
pub(crate) use reconciler::Reconciler;
pub use settings::Settings;
pub(crate) use shared_budget::share_budget;
