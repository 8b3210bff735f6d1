//! The input of a signature.

use crate::domain::timestamp::Timestamp;

/// A message to sign. A scheme uses the parts that it needs.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The message id.
    pub id: &'a str,
    /// The time of sending.
    pub sent_at: Timestamp,
    /// The exact bytes of the body.
    pub body: &'a [u8],
}
