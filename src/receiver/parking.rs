//! Parked notifications: notifications that arrived before the row of their image. They are applied after an app inserts the row.
//!
//! A sweep is one pass over all parked notifications. It applies those whose image has a row by now.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::payload::{self, IgnoredFields, Interpreted, Pointers};
use super::settings::Settings;
use crate::clock::Clock;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Notification, RequestInfo};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::store::{ParkedQuery, Rejection, Rejections, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::ParkedMetrics;

/// The minimum pause between two sweeps.
const MIN_PAUSE: Duration = Duration::from_secs(2);

/// The pause after a long sweep, as a multiple of its duration. A sweep is long when many notifications are parked.
const PAUSE_FACTOR: u32 = 10;

/// The number of parked notifications in one page. The body of each notification has up to 64 KiB.
const PAGE_SIZE: u32 = 500;

/// The number of notifications in one transaction.
const BATCH_SIZE: usize = 100;

/// The reason why an unauthenticated notification is not applied while a secret is configured.
const NOT_AUTHENTICATED: &str =
    "it is not authenticated, because no secret was configured when it was received";

/// The outcome of a notification about an image without a row.
const UNKNOWN_IMAGE: Outcome = Outcome::Rejected(RejectionReason::UnknownImage);

/// Applies parked notifications: in the background, and when an operator asks for it.
pub(crate) struct ParkedApplier {
    rejections: Arc<dyn Rejections>,
    envelope: Pointers,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    requires_authentication: bool,
}

impl ParkedApplier {
    /// Creates an applier. Its sweeps apply only notifications that were parked in the last `webhook.parked_ttl_days`. If a
    /// secret is configured, it applies only authenticated notifications. `can_look_up` says whether the service asks Cloudflare
    /// about images.
    pub(crate) fn new(
        rejections: Arc<dyn Rejections>,
        settings: &Settings,
        can_look_up: bool,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            rejections,
            envelope: Pointers {
                can_look_up,
                ..settings.envelope.pointers()
            },
            clock,
            ttl: settings.parked_ttl_days.days(),
            requires_authentication: settings.secrets().next().is_some(),
        }
    }

    /// Sweeps until `stop`, with pauses of at least 2 seconds. `stop` rolls back only the transaction in progress. Its
    /// notifications stay parked.
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
                    Ok(applied) => tracing::info!(applied, "applied parked notifications"),
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "cannot apply parked notifications; they stay parked"
                    ),
                }
                pause = MIN_PAUSE.max(PAUSE_FACTOR * started.elapsed());
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Applies every parked notification whose image has a row now, and returns their number. Expires notifications that were
    /// parked for too long: they stay stored as rejections.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let parked_since = if self.ttl.is_zero() {
            // With 0 days nothing stays parked, not even a notification that was received just now.
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
            if page.has_expired_rows {
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

    /// Applies the notification of a rejection now, whatever the reason for the rejection. Operators use this after they correct
    /// a pointer or insert a row.
    pub(crate) async fn reprocess(&self, rejection: &Rejection) -> Result<Reprocessed, StoreError> {
        if rejection.is_applied() {
            return Ok(Reprocessed::AlreadyApplied);
        }
        if self.requires_authentication && !rejection.is_authenticated() {
            return Ok(Reprocessed::Refused(NOT_AUTHENTICATED.to_owned()));
        }
        let parsed = match self.parse(rejection) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Reprocessed::Refused(reason)),
        };
        let ignored = parsed.ignored.clone();
        let error = parsed.error.as_ref().map(ToString::to_string);
        let notification = notification(rejection, parsed);
        let image = notification.image().cloned();
        let outcomes = self
            .apply_one(&(rejection.id, Arc::new(notification)))
            .await?;
        match (outcomes.first(), image) {
            (None, _) => Ok(Reprocessed::AlreadyApplied),
            (Some((_, UNKNOWN_IMAGE)), Some(image)) => {
                self.rejections
                    .park(rejection.id, &image, self.clock.now())
                    .await?;
                Ok(Reprocessed::Parked(image))
            }
            (Some((_, Outcome::Rejected(_))), _) => {
                Ok(Reprocessed::Refused(error.unwrap_or_default()))
            }
            (Some((_, outcome)), _) => Ok(Reprocessed::Recorded(*outcome, ignored)),
        }
    }

    async fn apply(
        &self,
        batch: &[Rejection],
        blocked: &mut BlockedImages,
    ) -> Result<usize, StoreError> {
        let mut parsed = Vec::with_capacity(batch.len());
        for parked in batch {
            if blocked.contains(&parked.cloudflare_id) {
                continue;
            }
            match self.parse(parked) {
                // The service logged the ignored fields when it received the notification.
                Ok(body) => parsed.push((parked.id, Arc::new(notification(parked, body)))),
                // The pointers in the settings have changed since the notification was parked.
                Err(reason) => {
                    blocked.insert(parked.cloudflare_id.clone());
                    self.record_failure(parked.id, &reason).await?;
                }
            }
        }
        if parsed.is_empty() {
            return Ok(0);
        }
        match self.rejections.apply(&parsed, self.clock.now()).await {
            Ok(outcomes) => Ok(count_applied(&outcomes)),
            // A timeout is systemic too, but a single notification can cause it.
            Err(error) if error.is_systemic() && !error.is_timeout() => Err(error),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "batch of parked notifications failed; applying one by one"
                );
                self.apply_one_by_one(&parsed, blocked).await
            }
        }
    }

    async fn apply_one_by_one(
        &self,
        parsed: &[(i64, Arc<Notification>)],
        blocked: &mut BlockedImages,
    ) -> Result<usize, StoreError> {
        let (mut applied, mut consecutive_timeouts) = (0, 0);
        for parked in parsed {
            let image = parked.1.image().map(|id| id.as_str().to_owned());
            if blocked.contains(&image) {
                continue;
            }
            match self.apply_one(parked).await {
                Ok(outcomes) => {
                    applied += count_applied(&outcomes);
                    consecutive_timeouts = 0;
                }
                // One timeout can be specific to this notification, for example because of an app's trigger. Two consecutive
                // timeouts mean that the database is slow.
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

    /// Applies one notification. If the database refuses it because of a detail, applies it without details.
    async fn apply_one(
        &self,
        parked: &(i64, Arc<Notification>),
    ) -> Result<Vec<(i64, Outcome)>, StoreError> {
        let now = self.clock.now();
        let error = match self
            .rejections
            .apply(std::slice::from_ref(parked), now)
            .await
        {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) if error.is_systemic() || error.is_transient() || error.is_suppression() => {
                return Err(error);
            }
            Err(error) => error,
        };
        let Some(reduced) = parked.1.without_details() else {
            return Err(error);
        };
        match self
            .rejections
            .apply(&[(parked.0, Arc::new(reduced))], now)
            .await
        {
            // Only a written row proves that the details were the reason.
            Ok(outcomes)
                if outcomes
                    .iter()
                    .any(|(_, outcome)| !matches!(outcome, Outcome::Applied(_))) =>
            {
                Err(error)
            }
            Ok(outcomes) => {
                tracing::warn!(
                    rejection = parked.0,
                    error = chain(&error),
                    "applied a notification without its details, because the database refused them"
                );
                Ok(outcomes)
            }
            // The details were not the reason.
            Err(_) => Err(error),
        }
    }

    async fn record_failure(&self, id: i64, error: &str) -> Result<(), StoreError> {
        tracing::warn!(rejection = id, error, "cannot apply a parked notification");
        self.rejections
            .record_failure(id, error, self.clock.now())
            .await
    }

    fn parse(&self, rejection: &Rejection) -> Result<Interpreted, String> {
        let body = rejection
            .whole_body()
            .ok_or("its body is not stored in full")?;
        let interpreted = payload::interpret(body.as_bytes(), &self.envelope);
        match (&interpreted.content, &interpreted.error) {
            (Content::Invalid(_), Some(error)) => Err(error.to_string()),
            _ => Ok(interpreted),
        }
    }
}

/// Returns the notification of a stored rejection.
fn notification(rejection: &Rejection, parsed: Interpreted) -> Notification {
    Notification {
        content: parsed.content,
        payload: parsed.payload,
        received_at: rejection.received_at,
        // Only a new rejection stores the request, and this one is stored already.
        request_info: RequestInfo::default(),
    }
}

/// The images with a notification that could not be applied. Their later notifications are skipped until the next sweep.
type BlockedImages = HashSet<Option<String>>;

/// Returns the number of applied notifications.
fn count_applied(outcomes: &[(i64, Outcome)]) -> usize {
    let applied = outcomes
        .iter()
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Rejected(_)));
    applied.count()
}

/// The result of reprocessing a rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reprocessed {
    /// The notification was recorded, with this outcome. The fields break a rule and were ignored.
    Recorded(Outcome, IgnoredFields),
    /// The image has no row yet. The notification is parked.
    Parked(CloudflareId),
    /// The notification is still refused, for this reason.
    Refused(String),
    /// The notification is already applied, or another process is applying it.
    AlreadyApplied,
}
