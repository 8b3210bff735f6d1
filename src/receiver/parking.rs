//! Notifications that came before their image's row: they are parked, and applied when it is there, whoever has inserted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::payload::{self, Pointers};
use crate::clock::Clock;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Notification, Recorded};
use crate::store::{Rejection, Rejections, StoreError};
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

    /// Applies a rejection now, whatever it was rejected for, after a pointer or a row was mended.
    pub(crate) async fn reprocess(&self, rejection: &Rejection) -> Result<Reprocessed, StoreError> {
        let notification = match self.read(rejection) {
            Ok(notification) => notification,
            Err(problem) => return Ok(Reprocessed::Refused(problem)),
        };
        let image = match &notification.content {
            Content::Report(report) => Some(report.cloudflare_id.clone()),
            _ => None,
        };
        let applied = self
            .rejections
            .apply(&[(rejection.id, Arc::new(notification))], self.clock.now())
            .await?;
        match (applied.first(), image) {
            (None, _) => Ok(Reprocessed::AlreadyApplied),
            (Some((_, Recorded::UnknownImage)), Some(image)) => {
                self.rejections.park(rejection.id, &image).await?;
                Ok(Reprocessed::Parked(image))
            }
            (Some((_, recorded)), _) => Ok(Reprocessed::Recorded(*recorded)),
        }
    }

    async fn apply(&self, due: Vec<Rejection>) -> Result<usize, StoreError> {
        let mut readable = Vec::with_capacity(due.len());
        for parked in due {
            let id = parked.id;
            match self.read(&parked) {
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
            applied => applied.map(|applied| count(&applied)),
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
                Ok(one) => applied += count(&one),
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

    fn read(&self, rejection: &Rejection) -> Result<Notification, String> {
        let body = rejection
            .whole_body()
            .ok_or("its body was not kept as a whole")?;
        let (content, payload) =
            payload::parse(body.as_bytes(), &self.envelope).map_err(|error| error.to_string())?;
        Ok(Notification {
            content,
            payload,
            received_at: rejection.received_at,
            origin: rejection.origin.clone(),
        })
    }
}

/// How many of these were applied.
fn count(recorded: &[(i64, Recorded)]) -> usize {
    let applied = recorded
        .iter()
        .filter(|(_, recorded)| *recorded != Recorded::UnknownImage);
    applied.count()
}

/// What became of a rejection that was applied by somebody's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reprocessed {
    /// It is recorded, as if it came now for the first time.
    Recorded(Recorded),
    /// Its image has no row yet. It is parked.
    Parked(CloudflareId),
    /// It is refused still, for this reason.
    Refused(String),
    /// It was applied before, or nothing of it was kept.
    AlreadyApplied,
}
