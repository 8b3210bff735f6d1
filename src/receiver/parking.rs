//! Parked notifications: they came before their image's row, and are applied when an app has inserted it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::payload::{self, Pointers};
use super::settings::Settings;
use crate::clock::Clock;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Notification, RequestInfo};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::store::{ParkedQuery, Rejection, Rejections, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::ParkedMetrics;

/// The time between two sweeps.
const PAUSE: Duration = Duration::from_secs(2);

/// The pause after a long sweep, in multiples of the sweep. Sweeps are long when many notifications are parked.
const PAUSE_TIMES_SWEEP: u32 = 10;

/// How many parked notifications are read at once. Each has up to 64 KiB.
const PAGE: u32 = 500;

/// How many notifications are applied in one transaction.
const BATCH: usize = 100;

/// Why an unauthenticated notification is not applied once a secret is configured.
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
    /// Applies notifications within `webhook.parked_ttl_days`; only authenticated ones if a secret is configured.
    pub(crate) fn new(
        rejections: Arc<dyn Rejections>,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            rejections,
            envelope: settings.envelope.pointers(),
            clock,
            kept_for: settings.parked_ttl_days.days(),
            asks_for_proof: settings.secrets().next().is_some(),
        }
    }

    /// Sweeps every other second until `stop`. A sweep that is under way is rolled back, and its notifications stay parked.
    pub(crate) async fn run(self, metrics: ParkedMetrics, stop: CancellationToken) {
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

    /// Applies all that can be applied now, and returns how many. A notification that is parked for too long is unparked and kept.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let since = if self.kept_for.is_zero() {
            // With 0 days nothing stays parked, not even a notification of this moment.
            now.saturating_add(Duration::from_micros(1))
        } else {
            now.saturating_sub(self.kept_for)
        };
        let (mut after, mut applied) = (i64::MIN, 0);
        let mut blocked = BlockedImages::default();
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
                applied += self.apply(batch, &mut blocked).await?;
            }
        }
    }

    /// Applies a rejection now, whatever its reason, after an operator has mended a pointer or a row.
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

    async fn apply(
        &self,
        due: &[Rejection],
        blocked: &mut BlockedImages,
    ) -> Result<usize, StoreError> {
        let mut readable = Vec::with_capacity(due.len());
        for parked in due {
            if blocked.contains(&parked.cloudflare_id) {
                continue;
            }
            match self.read(parked) {
                Ok(notification) => readable.push((parked.id, Arc::new(notification))),
                // The pointers have changed since it was parked.
                Err(problem) => {
                    blocked.insert(parked.cloudflare_id.clone());
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
                self.apply_one_by_one(&readable, blocked).await
            }
        }
    }

    async fn apply_one_by_one(
        &self,
        readable: &[(i64, Arc<Notification>)],
        blocked: &mut BlockedImages,
    ) -> Result<usize, StoreError> {
        let (mut applied, mut in_a_row) = (0, 0);
        for parked in readable {
            let image = parked.1.image().map(|id| id.as_str().to_owned());
            if blocked.contains(&image) {
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
                // One timeout can be the notification's own, for example because of an app's trigger. Two are the database's.
                Err(error) if error.is_timeout() && in_a_row == 0 => {
                    in_a_row += 1;
                    self.failed(parked.0, &chain(&error)).await?;
                    blocked.insert(image);
                }
                Err(error) if error.is_systemic() => return Err(error),
                Err(error) => {
                    if !error.is_transient() {
                        self.failed(parked.0, &chain(&error)).await?;
                    }
                    blocked.insert(image);
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
            // The request_info is written with a new rejection only.
            request_info: RequestInfo::default(),
        })
    }
}

/// The images with a notification that could not be applied. Their later notifications wait for it.
type BlockedImages = HashSet<Option<String>>;

/// Returns how many of these were applied.
fn count(recorded: &[(i64, Outcome)]) -> usize {
    let applied = recorded
        .iter()
        .filter(|(_, recorded)| *recorded != UNKNOWN_IMAGE);
    applied.count()
}

/// The result of reprocessing a rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reprocessed {
    /// It is recorded, as if it were received now.
    Recorded(Outcome),
    /// Its image has no row yet. It is parked.
    Parked(CloudflareId),
    /// It is still refused, for this reason.
    Refused(String),
    /// It is applied already, or another process is applying it.
    AlreadyApplied,
}
