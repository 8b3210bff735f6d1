//! The message that a sender signs.

use crate::domain::timestamp::Timestamp;

/// What is to be proved to come from us, for the schemes that look at it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The message's id.
    pub id: &'a str,
    /// When it is sent.
    pub sent_at: Timestamp,
    /// The exact bytes.
    pub body: &'a [u8],
}
