//! The reasons why the programs did not run on a message, and the limits of time.

use std::time::Duration;

use super::program::{Failure, MAX_OUTPUT_BYTES, ProgramKey};
use super::protocol::MAX_MESSAGE_BYTES;

/// The time limit for one message, from the end of the message before it. A run takes microseconds, but the worker has low
/// priority and a busy machine may delay it.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(5);

/// The time limit for one message, including the wait for the messages before it. A lease has time for it in addition to the call.
pub(super) const TOTAL_LIMIT: Duration = Duration::from_secs(10);

/// A failed run. The text of jq's error is dropped, because it can quote the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::relay) enum JqError {
    /// The run failed, or its output was not JSON.
    #[error("`{}` ended with an error", .0.name())]
    Failed(ProgramKey),
    #[error("`{}` produced more than {MAX_OUTPUT_BYTES} bytes", .0.name())]
    TooLarge(ProgramKey),
    #[error("the jq program took longer than {} s", RUN_LIMIT.as_secs())]
    TooLong,
    #[error("the jq program did not run within {} s, because earlier messages took too long", TOTAL_LIMIT.as_secs())]
    WaitedTooLong,
    #[error("the jq program needed too much memory or recursion, and its process ended")]
    Ended,
    #[error("the message has more than {MAX_MESSAGE_BYTES} bytes, too many for a jq program")]
    MessageTooLarge,
    #[error("the process for the jq program cannot be started: {0}")]
    NotStarted(String),
}

impl JqError {
    pub(super) fn of_failure(key: ProgramKey, failure: Failure) -> Self {
        match failure {
            Failure::Failed => Self::Failed(key),
            Failure::TooLarge => Self::TooLarge(key),
        }
    }
}
