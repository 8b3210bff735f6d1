//! Notifications that came before their image's row: they are parked, and applied when it is there, whoever has inserted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::payload::{self, Pointers};
use crate::clock::Clock;
use crate::domain::notification::Notification;
use crate::store::{Parked, Rejections, StoreError};
use crate::telemetry::chain;

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_secs(2);

/// Where looking takes long, because much is parked, the pause is so many times as long.
const PAUSE_TIMES_SWEEP: u32 = 10;

/// How many are applied in one transaction. Each has up to 64 KiB.
const BATCH: u32 = 100;

/// Applies parked notifications.
pub(crate) struct Parking {
    rejections: Arc<dyn Rejections>,
    envelope: Pointers,
    clock: Arc<dyn Clock>,
    kept_for: Duration,
}

impl Parking {
    /// Applies what was parked for no longer than this.
    pub(crate) fn new(
        rejections: Arc<dyn Rejections>,
        settings: &super::Settings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            rejections,
            envelope: settings.envelope.pointers(),
            clock,
            kept_for: settings.park_days.days(),
        }
    }

    /// Looks every other second, until it is asked to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut pause = PAUSE;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            let started = Instant::now();
            match self.sweep().await {
                Ok(0) => {}
                Ok(applied) => tracing::info!(applied, "parked notifications were applied"),
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "parked notifications could not be applied; they stay parked"
                ),
            }
            pause = PAUSE.max(PAUSE_TIMES_SWEEP * started.elapsed());
        }
    }

    /// Applies all that can be applied now; how many that were.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        if self.kept_for.is_zero() {
            return Ok(0);
        }
        let mut applied = 0;
        loop {
            let now = self.clock.now();
            let due = self
                .rejections
                .due(now.saturating_sub(self.kept_for), BATCH)
                .await?;
            let is_last = due.len() < BATCH as usize;
            let applied_now = self.apply(due).await?;
            applied += applied_now;
            // Where none of them can be applied, looking again would find them again.
            if is_last || applied_now == 0 {
                return Ok(applied);
            }
        }
    }

    async fn apply(&self, due: Vec<Parked>) -> Result<usize, StoreError> {
        let mut readable = Vec::with_capacity(due.len());
        for parked in due {
            let id = parked.id;
            match self.read(parked) {
                Ok(notification) => readable.push((id, Arc::new(notification))),
                // The pointers were changed since it was parked.
                Err(problem) => self.failed(id, &problem).await?,
            }
        }
        if readable.is_empty() {
            return Ok(0);
        }
        match self.rejections.apply(&readable, self.clock.now()).await {
            Err(error) if !error.is_everybodys() => {
                tracing::warn!(
                    error = chain(&error),
                    "parked notifications are applied one by one"
                );
                self.apply_one_by_one(&readable).await
            }
            applied => applied,
        }
    }

    async fn apply_one_by_one(
        &self,
        readable: &[(i64, Arc<Notification>)],
    ) -> Result<usize, StoreError> {
        let mut applied = 0;
        for parked in readable {
            match self
                .rejections
                .apply(std::slice::from_ref(parked), self.clock.now())
                .await
            {
                Ok(count) => applied += count,
                Err(error) if error.is_everybodys() => return Err(error),
                Err(error) => self.failed(parked.0, &chain(&error)).await?,
            }
        }
        Ok(applied)
    }

    async fn failed(&self, id: i64, why: &str) -> Result<(), StoreError> {
        tracing::warn!(
            rejection = id,
            why,
            "a parked notification could not be applied; it is kept"
        );
        self.rejections.failed(id, why, self.clock.now()).await
    }

    fn read(&self, parked: Parked) -> Result<Notification, String> {
        let (content, payload) = payload::parse(parked.body.as_bytes(), &self.envelope)
            .map_err(|error| error.to_string())?;
        Ok(Notification {
            content,
            payload,
            received_at: parked.received_at,
            origin: parked.origin,
        })
    }
}
