//! Proof of the sender: does a request show that its sender knows one of our secrets?
//!
//! One file a scheme, each with how it is checked and how it is made. Any one valid proof is enough. Nothing is compared but
//! digests, in constant time, and no comparison is skipped because an earlier one held.

mod body_hmac;
mod cf_webhook_auth;
mod diagnosis;
mod header_values;
mod key;
mod message;
mod scheme;
mod signer;
mod standard;
mod timestamped;
mod verifier;

pub(crate) use diagnosis::{Diagnosis, diagnose};
pub use message::Message;
pub use scheme::Scheme;
pub(crate) use signer::Signer;
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
