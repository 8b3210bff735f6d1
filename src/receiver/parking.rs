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
const MIN_PAUSE: Duration = Duration::from_secs(2);

/// The pause after a long sweep, in multiples of the sweep. Sweeps are long when many notifications are parked.
const PAUSE_FACTOR: u32 = 10;

/// How many parked notifications are read at once. Each has up to 64 KiB.
const PAGE_SIZE: u32 = 500;

/// How many notifications are applied in one transaction.
const BATCH_SIZE: usize = 100;

/// Why an unauthenticated notification is not applied once a secret is configured.
const NOT_AUTHENTICATED: &str = "it came without proof, while no secret was configured";

/// The outcome of a notification whose image has no row.
const UNKNOWN_IMAGE: Outcome = Outcome::Rejected(RejectionReason::UnknownImage);

/// Applies parked notifications.
pub(crate) struct Parking {
    rejections: Arc<dyn Rejections>,
    envelope: Pointers,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    requires_authentication: bool,
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
            ttl: settings.parked_ttl_days.days(),
            requires_authentication: settings.secrets().next().is_some(),
        }
    }

    /// Sweeps every other second until `stop`. A sweep that is under way is rolled back, and its notifications stay parked.
    pub(crate) async fn run(self, metrics: ParkedMetrics, stop: CancellationToken) {
        let sweeping = async {
            let mut pause = MIN_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                let started = Instant::now();
                let result = self.sweep().await;
                if result.is_ok() {
                    metrics.sweeps.inc();
                }
                match result {
                    Ok(0) => {}
                    Ok(applied) => tracing::info!(applied, "parked notifications were applied"),
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "parked notifications could not be applied; they stay parked"
                    ),
                }
                pause = MIN_PAUSE.max(PAUSE_FACTOR * started.elapsed());
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Applies all that can be applied now, and returns how many. A notification that is parked for too long is unparked and kept.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let parked_since = if self.ttl.is_zero() {
            // With 0 days nothing stays parked, not even a notification of this moment.
            now.saturating_add(Duration::from_micros(1))
        } else {
            now.saturating_sub(self.ttl)
        };
        let (mut after, mut applied) = (i64::MIN, 0);
        let mut blocked = BlockedImages::default();
        loop {
            let query = ParkedQuery {
                after,
                since: parked_since,
                authenticated_only: self.requires_authentication,
                limit: PAGE_SIZE,
            };
            let Some(page) = self.rejections.parked_page(&query).await? else {
                return Ok(applied);
            };
            if page.has_expired {
                self.rejections
                    .expire_parked(after, page.last_id, parked_since)
                    .await?;
            }
            after = page.last_id;
            for batch in page.rejections.chunks(BATCH_SIZE) {
                applied += self.apply(batch, &mut blocked).await?;
            }
        }
    }

    /// Applies a rejection now, whatever its reason, after an operator has mended a pointer or a row.
    pub(crate) async fn reprocess(&self, rejection: &Rejection) -> Result<Reprocessed, StoreError> {
        if rejection.is_applied() {
            return Ok(Reprocessed::AlreadyApplied);
        }
        if self.requires_authentication && !rejection.is_authenticated() {
            return Ok(Reprocessed::Refused(NOT_AUTHENTICATED.to_owned()));
        }
        let notification = match self.parse(rejection) {
            Ok(notification) => notification,
            Err(problem) => return Ok(Reprocessed::Refused(problem)),
        };
        let image = notification.image().cloned();
        let outcomes = self
            .rejections
            .apply(&[(rejection.id, Arc::new(notification))], self.clock.now())
            .await?;
        match (outcomes.first(), image) {
            (None, _) => Ok(Reprocessed::AlreadyApplied),
            (Some((_, UNKNOWN_IMAGE)), Some(image)) => {
                self.rejections
                    .park(rejection.id, &image, self.clock.now())
                    .await?;
                Ok(Reprocessed::Parked(image))
            }
            (Some((_, outcome)), _) => Ok(Reprocessed::Recorded(*outcome)),
        }
    }

    async fn apply(
        &self,
        page: &[Rejection],
        blocked: &mut BlockedImages,
    ) -> Result<usize, StoreError> {
        let mut readable = Vec::with_capacity(page.len());
        for parked in page {
            if blocked.contains(&parked.cloudflare_id) {
                continue;
            }
            match self.parse(parked) {
                Ok(notification) => readable.push((parked.id, Arc::new(notification))),
                // The pointers have changed since it was parked.
                Err(problem) => {
                    blocked.insert(parked.cloudflare_id.clone());
                    self.record_failure(parked.id, &problem).await?;
                }
            }
        }
        if readable.is_empty() {
            return Ok(0);
        }
        match self.rejections.apply(&readable, self.clock.now()).await {
            Ok(outcomes) => Ok(count_applied(&outcomes)),
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
        let (mut applied, mut consecutive_timeouts) = (0, 0);
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
                Ok(outcomes) => {
                    applied += count_applied(&outcomes);
                    consecutive_timeouts = 0;
                }
                // One timeout can be the notification's own, for example because of an app's trigger. Two are the database's.
                Err(error) if error.is_timeout() && consecutive_timeouts == 0 => {
                    consecutive_timeouts += 1;
                    self.record_failure(parked.0, &chain(&error)).await?;
                    blocked.insert(image);
                }
                Err(error) if error.is_systemic() => return Err(error),
                Err(error) => {
                    if !error.is_transient() {
                        self.record_failure(parked.0, &chain(&error)).await?;
                    }
                    blocked.insert(image);
                }
            }
        }
        Ok(applied)
    }

    async fn record_failure(&self, id: i64, error: &str) -> Result<(), StoreError> {
        tracing::warn!(
            rejection = id,
            error,
            "a parked notification could not be applied; it is kept"
        );
        self.rejections
            .record_failure(id, error, self.clock.now())
            .await
    }

    fn parse(&self, rejection: &Rejection) -> Result<Notification, String> {
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
fn count_applied(outcomes: &[(i64, Outcome)]) -> usize {
    let applied = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome != UNKNOWN_IMAGE);
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
