//! Authenticates senders with a shared secret, and signs messages.
//!
//! Each scheme has a file with its `verify` and `sign`. One valid credential is enough. Only digests are compared, in constant
//! time, and a match does not skip later comparisons.

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
pub(crate) use key::{is_ambiguous, key_bytes};
pub use message::Message;
pub use scheme::Scheme;
pub(crate) use signer::Signer;
pub use verifier::{Verification, Verifier};

#[cfg(test)]
mod tests;
