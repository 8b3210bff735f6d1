//! The pool mode of a session pool: set, detected, or not yet known.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::PoolMode;
use crate::store::pooling::Pooling;

/// The time between two attempts to detect the mode.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// The values of the state, besides 0 before the first detection.
const SESSION: u8 = 1;
const TRANSACTION: u8 = 2;
/// The last detection had no result.
const UNCLEAR: u8 = 3;

/// The pool mode, once it is known.
#[derive(Debug, Default)]
pub(super) struct DetectedMode {
    state: AtomicU8,
    /// The time of the next detection. Locked during a detection.
    next_detection: Mutex<Option<Instant>>,
}

impl DetectedMode {
    /// Returns the mode if it is known.
    pub(super) fn get(&self) -> Option<PoolMode> {
        match self.state.load(Ordering::Acquire) {
            SESSION => Some(PoolMode::Session),
            TRANSACTION => Some(PoolMode::Transaction),
            _ => None,
        }
    }

    /// Returns the mode as an operator sees it.
    pub(super) fn pooling(&self) -> Pooling {
        match self.get() {
            Some(PoolMode::Session) => Pooling::Session,
            Some(PoolMode::Transaction) => Pooling::Transaction,
            None => Pooling::Unclear,
        }
    }

    pub(super) fn set(&self, mode: PoolMode) {
        let state = match mode {
            PoolMode::Session => SESSION,
            PoolMode::Transaction => TRANSACTION,
        };
        self.state.store(state, Ordering::Release);
    }

    /// Returns the mode. Detects it if it is not known. A detection without a result is repeated later, and until then the mode is
    /// [`PoolMode::Transaction`], which works in front of every server.
    pub(super) async fn get_or_detect(
        &self,
        detect: impl AsyncFnOnce() -> Result<Option<PoolMode>, sqlx::Error>,
    ) -> Result<PoolMode, sqlx::Error> {
        if let Some(mode) = self.get() {
            return Ok(mode);
        }
        let mut next_detection = if self.state.load(Ordering::Acquire) == UNCLEAR {
            match self.next_detection.try_lock() {
                Ok(next) if next.is_none_or(|next| next <= Instant::now()) => next,
                // Not yet, or another operation detects it.
                Ok(_) | Err(_) => return Ok(PoolMode::Transaction),
            }
        } else {
            self.next_detection.lock().await
        };
        // Another operation may have detected it meanwhile.
        match self.state.load(Ordering::Acquire) {
            SESSION => return Ok(PoolMode::Session),
            TRANSACTION => return Ok(PoolMode::Transaction),
            UNCLEAR if next_detection.is_some_and(|next| next > Instant::now()) => {
                return Ok(PoolMode::Transaction);
            }
            _ => {}
        }
        if let Some(mode) = detect().await? {
            self.set(mode);
            return Ok(mode);
        }
        self.state.store(UNCLEAR, Ordering::Release);
        *next_detection = Some(Instant::now() + RETRY_INTERVAL);
        Ok(PoolMode::Transaction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_detection_without_result_after_a_minute() {
        let mode = DetectedMode::default();
        let unclear = async || Ok(None);
        let session = async || Ok(Some(PoolMode::Session));

        let first = mode.get_or_detect(unclear).await.expect("no error");
        let too_early = mode.get_or_detect(session).await.expect("no error");
        tokio::time::advance(RETRY_INTERVAL).await;
        let later = mode.get_or_detect(session).await.expect("no error");

        assert_eq!(first, PoolMode::Transaction);
        assert_eq!(too_early, PoolMode::Transaction);
        assert_eq!(later, PoolMode::Session);
        assert_eq!(mode.get(), Some(PoolMode::Session));
    }

    #[tokio::test]
    async fn failed_detection_is_repeated_at_once() {
        let mode = DetectedMode::default();

        let failed = mode
            .get_or_detect(async || Err(sqlx::Error::PoolTimedOut))
            .await;
        let detected = mode
            .get_or_detect(async || Ok(Some(PoolMode::Transaction)))
            .await;

        assert!(failed.is_err());
        assert_eq!(detected.expect("no error"), PoolMode::Transaction);
    }
}
