//! Notifications that came before their image's row: they are parked, and applied when it is there, whoever has inserted it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::payload::{self, Pointers};
use crate::clock::Clock;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Notification, Origin};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::store::{ParkedQuery, Rejection, Rejections, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::ParkingMetrics;

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_secs(2);

/// Where looking takes long, because much is parked, the pause is so many times as long.
const PAUSE_TIMES_SWEEP: u32 = 10;

/// How many are looked at at once. Each has up to 64 KiB.
const PAGE: u32 = 500;

/// How many are applied in one transaction.
const BATCH: usize = 100;

/// Why what came while no secret was configured is not applied when one is.
const UNPROVED: &str = "it came without proof, while no secret was configured";

/// The outcome of a notification whose image has no row.
const UNKNOWN_IMAGE: Outcome = Outcome::Rejected(RejectionReason::UnknownImage);

/// Applies parked notifications.
pub(crate) struct Parking {
    rejections: Arc<dyn Rejections>,
    envelope: Pointers,
    clock: Arc<dyn Clock>,
    kept_for: Duration,
    asks_for_proof: bool,
}

impl Parking {
    /// Applies what was parked for no longer than the settings say, and with proof where they ask for one.
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
            asks_for_proof: settings.secrets().next().is_some(),
        }
    }

    /// Looks every other second, until it is asked to stop. What it is at then is rolled back, and stays parked.
    pub(crate) async fn run(self, metrics: ParkingMetrics, stop: CancellationToken) {
        let sweeping = async {
            let mut pause = PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                let started = Instant::now();
                let swept = self.sweep().await;
                if swept.is_ok() {
                    metrics.sweeps.inc();
                }
                match swept {
                    Ok(0) => {}
                    Ok(applied) => tracing::info!(applied, "parked notifications were applied"),
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "parked notifications could not be applied; they stay parked"
                    ),
                }
                pause = PAUSE.max(PAUSE_TIMES_SWEEP * started.elapsed());
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Applies all that can be applied now; how many that were. What is parked for too long is merely kept from now on.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let since = if self.kept_for.is_zero() {
            // Nothing waits, not even what is parked at this moment.
            now.saturating_add(Duration::from_micros(1))
        } else {
            now.saturating_sub(self.kept_for)
        };
        let (mut after, mut applied) = (i64::MIN, 0);
        let mut waiting = Waiting::default();
        loop {
            let query = ParkedQuery {
                after,
                since,
                authenticated_only: self.asks_for_proof,
                limit: PAGE,
            };
            let Some(page) = self.rejections.parked_page(&query).await? else {
                return Ok(applied);
            };
            if page.has_expired {
                self.rejections
                    .expire_parked(after, page.last_id, since)
                    .await?;
            }
            after = page.last_id;
            for batch in page.rejections.chunks(BATCH) {
                applied += self.apply(batch, &mut waiting).await?;
            }
        }
    }

    /// Applies a rejection now, whatever it was rejected for, after a pointer or a row was mended.
    pub(crate) async fn reprocess(&self, rejection: &Rejection) -> Result<Reprocessed, StoreError> {
        if rejection.is_applied() {
            return Ok(Reprocessed::AlreadyApplied);
        }
        if self.asks_for_proof && !rejection.is_authenticated() {
            return Ok(Reprocessed::Refused(UNPROVED.to_owned()));
        }
        let notification = match self.read(rejection) {
            Ok(notification) => notification,
            Err(problem) => return Ok(Reprocessed::Refused(problem)),
        };
        let image = notification.image().cloned();
        let applied = self
            .rejections
            .apply(&[(rejection.id, Arc::new(notification))], self.clock.now())
            .await?;
        match (applied.first(), image) {
            (None, _) => Ok(Reprocessed::AlreadyApplied),
            (Some((_, UNKNOWN_IMAGE)), Some(image)) => {
                self.rejections
                    .park(rejection.id, &image, self.clock.now())
                    .await?;
                Ok(Reprocessed::Parked(image))
            }
            (Some((_, recorded)), _) => Ok(Reprocessed::Recorded(*recorded)),
        }
    }

    async fn apply(&self, due: &[Rejection], waiting: &mut Waiting) -> Result<usize, StoreError> {
        let mut readable = Vec::with_capacity(due.len());
        for parked in due {
            if waiting.contains(&parked.cloudflare_id) {
                continue;
            }
            match self.read(parked) {
                Ok(notification) => readable.push((parked.id, Arc::new(notification))),
                // The pointers were changed since it was parked.
                Err(problem) => {
                    waiting.insert(parked.cloudflare_id.clone());
                    self.failed(parked.id, &problem).await?;
                }
            }
        }
        if readable.is_empty() {
            return Ok(0);
        }
        match self.rejections.apply(&readable, self.clock.now()).await {
            Ok(recorded) => Ok(count(&recorded)),
            Err(error) if error.is_systemic() && !error.is_timeout() => Err(error),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "parked notifications are applied one by one"
                );
                self.apply_one_by_one(&readable, waiting).await
            }
        }
    }

    async fn apply_one_by_one(
        &self,
        readable: &[(i64, Arc<Notification>)],
        waiting: &mut Waiting,
    ) -> Result<usize, StoreError> {
        let (mut applied, mut in_a_row) = (0, 0);
        for parked in readable {
            let image = parked.1.image().map(|id| id.as_str().to_owned());
            if waiting.contains(&image) {
                continue;
            }
            match self
                .rejections
                .apply(std::slice::from_ref(parked), self.clock.now())
                .await
            {
                Ok(recorded) => {
                    applied += count(&recorded);
                    in_a_row = 0;
                }
                // One that takes too long may do so by itself, because of an app's trigger say. With two it is the database.
                Err(error) if error.is_timeout() && in_a_row == 0 => {
                    in_a_row += 1;
                    self.failed(parked.0, &chain(&error)).await?;
                    waiting.insert(image);
                }
                Err(error) if error.is_systemic() => return Err(error),
                Err(error) => {
                    if !error.is_transient() {
                        self.failed(parked.0, &chain(&error)).await?;
                    }
                    waiting.insert(image);
                }
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
        self.rejections
            .record_failure(id, why, self.clock.now())
            .await
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
            // Only what is refused for the first time is written down with its origin.
            origin: Origin::default(),
        })
    }
}

/// The images whose notifications wait, since one that came before could not be applied: what came later waits for what came first.
type Waiting = HashSet<Option<String>>;

/// How many of these were applied.
fn count(recorded: &[(i64, Outcome)]) -> usize {
    let applied = recorded
        .iter()
        .filter(|(_, recorded)| *recorded != UNKNOWN_IMAGE);
    applied.count()
}

/// What became of a rejection that was applied by somebody's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reprocessed {
    /// It is recorded, as if it came now for the first time.
    Recorded(Outcome),
    /// Its image has no row yet. It is parked.
    Parked(CloudflareId),
    /// It is refused still, for this reason.
    Refused(String),
    /// It was applied before, or somebody else is applying it.
    AlreadyApplied,
}
