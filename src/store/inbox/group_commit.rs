//! Group commit: an inbox that records many calls in one transaction of another inbox.
//!
//! ```text
//! record ──► queue ──► Writer ──► inbox.record(all calls that queued during the last commit)
//!    ▲                   │
//!    └── its own result ─┘
//! ```
//!
//! There is no timer. A writer commits all queued calls as one batch, and meanwhile the next batch queues up. An idle service
//! adds no latency. A busy service commits hundreds of webhooks at the cost of one commit.

use std::hash::{BuildHasher, RandomState};
use std::iter;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Inbox;
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Content, Notification};
use crate::domain::outcome::Outcome;
use crate::store::error::StoreError;
use crate::telemetry::chain;
use crate::telemetry::metrics::InboxMetrics;

/// The limits of the group commit.
#[derive(Debug, Clone, Copy)]
pub struct GroupCommitLimits {
    /// The number of writers. Each has one transaction at a time. Calls about the same image use the same writer.
    pub writers: usize,
    /// The maximum number of calls that wait for one writer. Further calls fail with [`StoreError::QueueFull`].
    pub queue: usize,
    /// The maximum number of calls in one transaction.
    pub batch: usize,
    /// The longest time that a call waits in the queue. Later it fails with [`StoreError::QueueTimeout`].
    pub max_wait: Duration,
}

/// The number of body bytes at which a batch takes no more calls. A batch of this size holds thousands of Cloudflare's bodies, and
/// is far below the limits of a statement.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// An inbox that records in batches.
///
/// A call is queued when its future is first polled. From then on it is recorded even if the caller drops the future.
pub struct GroupCommit {
    queues: Vec<mpsc::Sender<Call>>,
    hasher: RandomState,
    metrics: InboxMetrics,
}

/// One call of [`Inbox::record`]. All of its notifications are recorded in the same transaction.
struct Call {
    notifications: Vec<Arc<Notification>>,
    queued_at: Instant,
    result_sender: oneshot::Sender<RecordResult>,
}

type RecordResult = Result<Vec<Outcome>, StoreError>;

impl GroupCommit {
    /// Returns an inbox that records in `inbox`, and its writers. The caller must run the writers.
    #[must_use]
    pub fn new(
        inbox: &Arc<dyn Inbox>,
        limits: GroupCommitLimits,
        metrics: &InboxMetrics,
    ) -> (Self, Vec<Writer>) {
        let (queues, writers) = (0..limits.writers)
            .map(|_| {
                let (queue, calls) = mpsc::channel(limits.queue);
                let writer = Writer {
                    inbox: Arc::clone(inbox),
                    calls,
                    limits,
                    max_calls: limits.batch,
                    metrics: metrics.clone(),
                };
                (queue, writer)
            })
            .unzip();
        let group_commit = Self {
            queues,
            hasher: RandomState::new(),
            metrics: metrics.clone(),
        };
        (group_commit, writers)
    }

    /// Returns the queue for these notifications. The first image decides.
    fn queue_for(&self, notifications: &[Arc<Notification>]) -> &mpsc::Sender<Call> {
        let first_image = notifications
            .iter()
            .find_map(|notification| notification.image());
        let hash = first_image.map_or(0, |id| self.hasher.hash_one(id));
        let queue_count = u64::try_from(self.queues.len()).unwrap_or(u64::MAX);
        &self.queues[usize::try_from(hash % queue_count).unwrap_or_default()]
    }
}

#[async_trait]
impl Inbox for GroupCommit {
    async fn record(&self, notifications: &[Arc<Notification>]) -> RecordResult {
        let (result_sender, result) = oneshot::channel();
        let call = Call {
            notifications: notifications.to_vec(),
            queued_at: Instant::now(),
            result_sender,
        };
        self.metrics.queue_depth.inc();
        if let Err(error) = self.queue_for(notifications).try_send(call) {
            self.metrics.queue_depth.dec();
            return Err(match error {
                TrySendError::Full(_) => {
                    self.metrics.rejected.inc();
                    StoreError::QueueFull
                }
                TrySendError::Closed(_) => StoreError::Stopped,
            });
        }
        result.await.unwrap_or(Err(StoreError::Stopped))
    }
}

/// A task that commits queued calls, one batch after another.
pub struct Writer {
    inbox: Arc<dyn Inbox>,
    calls: mpsc::Receiver<Call>,
    limits: GroupCommitLimits,
    /// The maximum number of calls in the next batch. After a batch that timed out, it is lower than the limit.
    max_calls: usize,
    metrics: InboxMetrics,
}

impl Writer {
    /// Writes batches until `stop` is cancelled. Then refuses new calls, writes the queued ones, and returns.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                // An idle writer notices `stop` at once. A busy writer notices it between two batches.
                biased;
                () = stop.cancelled(), if !self.calls.is_closed() => self.calls.close(),
                first = self.calls.recv() => match first {
                    Some(first) => {
                        let batch = self.take_batch(first);
                        self.write(batch).await;
                    }
                    None => return,
                },
            }
        }
    }

    /// Returns a batch of the first call and the calls queued behind it.
    fn take_batch(&mut self, first: Call) -> Vec<Call> {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < self.max_calls
            && bytes < MAX_BATCH_BYTES
            && let Ok(call) = self.calls.try_recv()
        {
            bytes += call.bytes();
            batch.push(call);
        }
        self.metrics
            .queue_depth
            .dec_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        batch
    }

    /// Fails the calls that waited too long, and writes the others in one transaction. If that fails with an error that is not
    /// systemic, writes each call in its own transaction.
    async fn write(&mut self, mut batch: Vec<Call>) {
        let expired = batch.extract_if(.., |call| call.has_waited_too_long(self.limits.max_wait));
        self.fail_calls(expired, self.queue_timeout());
        if batch.is_empty() {
            return;
        }
        let notifications: Vec<_> = batch
            .iter()
            .flat_map(|call| call.notifications.iter().cloned())
            .collect();

        match self.record(&notifications).await {
            Ok(recorded) => {
                self.max_calls = self.limits.batch.min(2 * self.max_calls);
                let mut recorded = recorded.into_iter();
                for call in batch {
                    let outcomes = recorded.by_ref().take(call.notifications.len());
                    call.complete(Ok(outcomes.collect()));
                }
            }
            Err(error) if batch.len() > 1 && !error.is_systemic() => {
                tracing::warn!(
                    calls = batch.len(),
                    error = chain(&error),
                    "batch failed, retrying one by one"
                );
                self.write_one_by_one(batch).await;
            }
            Err(error) if !error.is_systemic() => {
                if let Some(call) = batch.pop() {
                    self.retry_or_fail(call, error).await;
                }
            }
            Err(error) => {
                if error.is_timeout() {
                    // A batch of the same size would time out again.
                    self.max_calls = (batch.len() / 2).max(1);
                }
                self.fail_calls(batch, error);
            }
        }
    }

    async fn write_one_by_one(&self, batch: Vec<Call>) {
        let mut batch = batch.into_iter();
        while let Some(call) = batch.next() {
            if call.has_waited_too_long(self.limits.max_wait) {
                return self.fail_calls(iter::once(call).chain(batch), self.queue_timeout());
            }
            match self.record(&call.notifications).await {
                Ok(recorded) => call.complete(Ok(recorded)),
                Err(error) if error.is_systemic() => {
                    return self.fail_calls(iter::once(call).chain(batch), error);
                }
                Err(error) => self.retry_or_fail(call, error).await,
            }
        }
    }

    /// Records a failed call without details. If that does not help, fails the call with its first error.
    async fn retry_or_fail(&self, call: Call, error: StoreError) {
        match self.record_without_details(&call, &error).await {
            Some(recorded) => call.complete(Ok(recorded)),
            None => self.fail_calls([call], error),
        }
    }

    /// Records a failed call without the details of its images. For example, an app made a column too narrow for a detail, and
    /// the detail must not cost the status. Returns `None` if the details were not the reason.
    async fn record_without_details(
        &self,
        call: &Call,
        error: &StoreError,
    ) -> Option<Vec<Outcome>> {
        let mut has_details = false;
        let without_details: Vec<_> = call
            .notifications
            .iter()
            .map(|notification| match notification.without_details() {
                Some(reduced) => {
                    has_details = true;
                    Arc::new(reduced)
                }
                None => Arc::clone(notification),
            })
            .collect();
        if !has_details || error.is_transient() || error.is_suppression() {
            return None;
        }
        let recorded = self.record(&without_details).await.ok()?;
        // Only a written row proves that the details were the reason.
        let is_applied = |outcome: &Outcome| matches!(outcome, Outcome::Applied(_));
        if !recorded.iter().all(is_applied) {
            return None;
        }
        self.metrics.without_details.inc();
        let image = call.notifications.first().and_then(|first| first.image());
        tracing::warn!(
            image = image.map(CloudflareId::as_str),
            error = chain(error),
            "recorded a webhook without its details, because the database refused them"
        );
        Some(recorded)
    }

    fn queue_timeout(&self) -> StoreError {
        StoreError::QueueTimeout {
            max_wait: self.limits.max_wait,
        }
    }

    /// Completes every call with the same error.
    fn fail_calls(&self, calls: impl IntoIterator<Item = Call>, error: StoreError) {
        let error = Arc::new(error);
        for call in calls {
            self.metrics.failed.inc_by(call.notifications.len() as u64);
            call.complete(Err(StoreError::Shared(Arc::clone(&error))));
        }
    }

    /// Records notifications in the inner inbox. A panic fails the batch, not the writer.
    async fn record(&self, notifications: &[Arc<Notification>]) -> RecordResult {
        self.metrics
            .write_attempts
            .inc_by(notifications.len() as u64);
        let recorded = AssertUnwindSafe(self.inbox.record(notifications))
            .catch_unwind()
            .await
            .unwrap_or(Err(StoreError::Panicked));
        if let Ok(recorded) = &recorded {
            self.metrics.transactions.inc();
            self.metrics.recorded.inc_by(recorded.len() as u64);
        }
        recorded
    }
}

impl Call {
    /// Returns the bytes of all bodies. The other parts of a notification are not larger than its body.
    fn bytes(&self) -> usize {
        let bodies = self
            .notifications
            .iter()
            .map(|notification| match &notification.content {
                Content::Invalid(invalid) => invalid.body.as_bytes().len(),
                // A hint also has its payload and the texts in it.
                Content::Hint(hint) => 3 * hint.invalid.body.as_bytes().len(),
                Content::Report(_) | Content::TestMessage | Content::OtherAlert => {
                    notification.payload.as_str().len()
                }
            });
        bodies.sum()
    }

    /// Returns whether the call has waited in the queue for `max_wait` or longer.
    fn has_waited_too_long(&self, max_wait: Duration) -> bool {
        self.queued_at.elapsed() >= max_wait
    }

    fn complete(self, result: RecordResult) {
        // The caller may have dropped its future. Its notifications stay recorded.
        let _caller_gone = self.result_sender.send(result);
    }
}

#[cfg(test)]
mod tests;
