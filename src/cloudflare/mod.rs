//! The client of Cloudflare's API: images, and the destinations and policies of notifications.
//!
//! The webhook is a hint, and this API is the truth. Source: <https://developers.cloudflare.com/api/>. Answers are read leniently,
//! because Cloudflare's documents and answers differ in places.

mod budget;
mod client;
mod envelope;
mod error;
mod images;
mod multipart;
mod notifications;
mod server_clock;
mod settings;
mod token;

pub(crate) use budget::{CallBudget, NoCall, Quota};
pub(crate) use client::Client;
pub(crate) use error::{ApiError, ErrorKind};
pub(crate) use images::{FoundImage, ImageList, NewUpload};
pub(crate) use notifications::{Destination, DestinationRequest, Policy};
pub use settings::Settings;
pub(crate) use token::Token;
