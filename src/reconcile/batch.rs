//! One batch of lookups: claim, look up, record.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::finding::{Finding, judge, wait_after_failure, wait_for_upload};
use super::reconciler::Reconciler;
use crate::cloudflare::ApiError;
use crate::domain::id::CloudflareId;
use crate::domain::image::Status;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::{ImagePage, ImagePosition, Lookup, LookupClaim, LookupKey, StoreError};
use crate::telemetry::chain;

/// The lookups of one batch. All of them are recorded in one transaction.
const BATCH_SIZE: u32 = 20;

/// The calls at the same time.
const CONCURRENT_CALLS: u32 = 4;

/// The images that are read at a time to find waiting ones.
const PAGE_SIZE: u32 = 5_000;

/// The longest time in which the results of a batch are recorded.
const RECORDING_TIME: Duration = Duration::from_mins(1);

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The image has this status now.
    Settled(Status),
    /// The upload can still take place.
    Waits,
    /// A webhook settled the image meanwhile, or its row was deleted.
    SettledMeanwhile,
    /// The answer cannot be used, or the result cannot be stored.
    Failed,
}

/// The lookups of one batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) summary: Summary,
    pub(crate) failures: Vec<FailedImage>,
    /// The error with which any other lookup would fail too. The images without an answer stay in the queue.
    pub(crate) stopped: Option<ApiError>,
}

/// An image whose lookup cannot be used, or whose result cannot be stored. It is looked up again later.
#[derive(Debug)]
pub(crate) struct FailedImage {
    pub(crate) id: CloudflareId,
    pub(crate) error: String,
}

/// The numbers of images by what their lookup found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) uploaded: u64,
    pub(crate) expired: u64,
    /// Images that a webhook settled meanwhile, or whose row was deleted.
    pub(crate) settled_meanwhile: u64,
    pub(crate) waiting: u64,
    pub(crate) failed: u64,
}

impl Batch {
    fn fail(&mut self, failure: FailedImage) {
        self.summary.count(Found::Failed);
        self.failures.push(failure);
    }
}

impl Summary {
    pub(crate) fn count(&mut self, found: Found) {
        let number = match found {
            Found::Settled(Status::Uploaded) => &mut self.uploaded,
            Found::Settled(Status::Expired) => &mut self.expired,
            Found::Settled(_) | Found::SettledMeanwhile => &mut self.settled_meanwhile,
            Found::Waits => &mut self.waiting,
            Found::Failed => &mut self.failed,
        };
        *number += 1;
    }

    /// Adds the numbers of another summary.
    pub(crate) fn add(&mut self, other: Self) {
        self.uploaded += other.uploaded;
        self.expired += other.expired;
        self.settled_meanwhile += other.settled_meanwhile;
        self.waiting += other.waiting;
        self.failed += other.failed;
    }

    /// Returns the number of lookups.
    pub(crate) fn lookups(&self) -> u64 {
        self.uploaded + self.expired + self.settled_meanwhile + self.waiting + self.failed
    }
}

/// The reason why lookups stop. The images stay in the queue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupFailed {
    /// No image can be looked up for now.
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known about one image of a batch.
enum Looked {
    Settled(LookupKey, Arc<Notification>),
    Waits(LookupKey, Duration),
    Failed(LookupKey, Duration, FailedImage),
    /// No image can be looked up for now.
    Stopped(LookupKey, ApiError),
}

impl Reconciler {
    /// Queues the waiting images that are old enough, from a position on. Returns the position of the last image.
    pub(crate) async fn queue(
        &self,
        mut position: Option<ImagePosition>,
    ) -> Result<Option<ImagePosition>, StoreError> {
        let created_before = self.clock.now().saturating_sub(self.after);
        loop {
            let page = ImagePage {
                after: position.as_ref(),
                created_before,
                limit: PAGE_SIZE,
                now: self.clock.read(),
            };
            match self.lookups.queue(&page).await? {
                Some(last) => position = Some(last),
                None => return Ok(position),
            }
        }
    }

    /// Returns the time in which a batch is certainly looked up and recorded. Another process may lease its images afterwards.
    fn lease(&self) -> Duration {
        let calls_in_turn = BATCH_SIZE.div_ceil(CONCURRENT_CALLS);
        self.client.deadline() * calls_in_turn + RECORDING_TIME
    }

    /// Looks up the images of one batch. Returns `None` if no image is due.
    pub(crate) async fn reconcile_batch(
        &self,
        since: Option<Timestamp>,
    ) -> Result<Option<Batch>, StoreError> {
        let claim = LookupClaim {
            limit: BATCH_SIZE,
            lease: self.lease(),
            since,
            now: self.clock.read(),
        };
        let claimed = self.lookups.claim(&claim).await?;
        if claimed.lookups.is_empty() && !claimed.is_full {
            return Ok(None);
        }
        let looked: Vec<Looked> = stream::iter(claimed.lookups)
            .map(|lookup| self.look_up(lookup))
            .buffer_unordered(CONCURRENT_CALLS as usize)
            .collect()
            .await;
        self.record(looked).await.map(Some)
    }

    /// Returns the waiting images of one page that are old enough, and the position of the page's last image.
    pub(crate) async fn peek(
        &self,
        after: Option<&ImagePosition>,
    ) -> Result<Option<(ImagePosition, Vec<Lookup>)>, StoreError> {
        let page = ImagePage {
            after,
            created_before: self.clock.now().saturating_sub(self.after),
            limit: PAGE_SIZE,
            now: self.clock.read(),
        };
        self.lookups.peek(&page).await
    }

    /// Looks up one image, and returns what it would record.
    pub(crate) async fn preview(&self, lookup: &Lookup) -> Result<Found, ApiError> {
        let finding = self.find(&lookup.cloudflare_id, lookup.expires_at).await?;
        Ok(match finding {
            Finding::Settled(report) => report
                .reported_status()
                .map_or(Found::SettledMeanwhile, Found::Settled),
            Finding::Waits => Found::Waits,
        })
    }

    /// Looks up one image, and records what it finds.
    pub(crate) async fn reconcile_one(&self, lookup: Lookup) -> Result<Found, LookupFailed> {
        let finding = self.find(&lookup.cloudflare_id, lookup.expires_at).await?;
        match finding {
            Finding::Settled(report) => {
                let one = (lookup.key, report);
                Ok(self.record_one(&one).await?)
            }
            Finding::Waits => Ok(Found::Waits),
        }
    }

    /// Asks Cloudflare about one image.
    async fn look_up(&self, lookup: Lookup) -> Looked {
        let id = &lookup.cloudflare_id;
        match self.find(id, lookup.expires_at).await {
            Ok(Finding::Settled(report)) => Looked::Settled(lookup.key, report),
            Ok(Finding::Waits) => {
                let (expires_at, now) = (lookup.expires_at, self.clock.now());
                let wait = wait_for_upload(lookup.attempts, self.after, expires_at, now);
                Looked::Waits(lookup.key, wait)
            }
            Err(error) if error.concerns_all_calls() => Looked::Stopped(lookup.key, error),
            Err(error) => {
                let wait = wait_after_failure(lookup.attempts);
                let failure = FailedImage {
                    id: id.clone(),
                    error: error.to_string(),
                };
                Looked::Failed(lookup.key, wait, failure)
            }
        }
    }

    /// Asks Cloudflare about an image, and judges the answer.
    async fn find(
        &self,
        id: &CloudflareId,
        expires_at: Option<Timestamp>,
    ) -> Result<Finding, ApiError> {
        let answer = self.client.image(id).await?;
        let judged = judge(id, expires_at, answer, self.clock.now());
        judged.map_err(|error| ApiError::unexpected("looking up an image", error.to_string()))
    }

    /// Records the results of a batch.
    async fn record(&self, looked: Vec<Looked>) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        let mut settled = Vec::new();
        for looked in looked {
            match looked {
                Looked::Settled(key, report) => settled.push((key, report)),
                Looked::Waits(key, wait) => {
                    self.postpone(&key, wait).await?;
                    batch.summary.count(Found::Waits);
                }
                Looked::Failed(key, wait, failure) => {
                    self.postpone(&key, wait).await?;
                    batch.fail(failure);
                }
                Looked::Stopped(key, error) => {
                    let wait = error.retry_after().unwrap_or_default();
                    self.postpone(&key, wait).await?;
                    batch.stopped = Some(error);
                }
            }
        }
        self.record_settled(&settled, &mut batch).await?;
        Ok(batch)
    }

    async fn postpone(&self, key: &LookupKey, wait: Duration) -> Result<(), StoreError> {
        self.lookups.postpone(key, wait, self.clock.read()).await
    }

    /// Records reports in one transaction, or each alone if one of them cannot be stored.
    async fn record_settled(
        &self,
        settled: &[(LookupKey, Arc<Notification>)],
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        if settled.is_empty() {
            return Ok(());
        }
        match self.lookups.record(settled, self.clock.now()).await {
            Ok(outcomes) => {
                for outcome in outcomes {
                    batch.summary.count(found(outcome));
                }
                return Ok(());
            }
            Err(error) if error.is_systemic() => return Err(error),
            // The error of one report, which is found below.
            Err(_) => {}
        }
        for one in settled {
            match self.record_one(one).await {
                Ok(found) => batch.summary.count(found),
                Err(error) if error.is_systemic() => return Err(error),
                Err(error) => {
                    self.postpone(&one.0, wait_after_failure(1)).await?;
                    if let Some(id) = one.1.image().cloned() {
                        let error = chain(&error).clone();
                        batch.fail(FailedImage { id, error });
                    }
                }
            }
        }
        Ok(())
    }

    /// Records one report. If the database refuses it because of a detail, records it without details.
    async fn record_one(&self, one: &(LookupKey, Arc<Notification>)) -> Result<Found, StoreError> {
        let (key, report) = one;
        let now = self.clock.now();
        let mut result = self.lookups.record(std::slice::from_ref(one), now).await;
        if let (Err(error), Some(reduced)) = (&result, report.without_details())
            && !error.is_systemic()
            && !error.is_suppression()
        {
            let reduced = [(key.clone(), Arc::new(reduced))];
            result = self.lookups.record(&reduced, now).await;
        }
        let outcomes = result?.into_iter();
        Ok(outcomes
            .map(found)
            .next()
            .unwrap_or(Found::SettledMeanwhile))
    }
}

fn found(outcome: Outcome) -> Found {
    match outcome {
        Outcome::Applied(status) => Found::Settled(status),
        Outcome::Duplicate(_)
        | Outcome::Stale(_)
        | Outcome::Accepted(_)
        | Outcome::Test
        | Outcome::Ignored
        | Outcome::Rejected(_) => Found::SettledMeanwhile,
    }
}
