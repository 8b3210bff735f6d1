//! The limit on calls of another server, which all processes with the same database share.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::clock::ClockReading;

/// The shared limit on calls of Cloudflare's API (generic cell rate algorithm). Its state is one time: when the next call would
/// take place if all calls had equal distances.
#[async_trait]
pub trait CallLimit: Send + Sync {
    /// Takes a call if that time is at most `max_ahead` away. Moves that time by `interval`.
    async fn take_call(
        &self,
        interval: Duration,
        max_ahead: Duration,
        now: ClockReading,
    ) -> Result<TakenCall, StoreError>;

    /// Moves that time to at least `ahead` from now.
    async fn delay_calls(&self, ahead: Duration, now: ClockReading) -> Result<(), StoreError>;
}

/// The result of taking a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenCall {
    /// The call is taken. Its time is so far ahead.
    Taken(Duration),
    /// No call is taken. The time of the next one is so far ahead.
    Refused(Duration),
}
