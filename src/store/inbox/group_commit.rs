//! Many webhooks, one transaction: an inbox made from an inbox.
//!
//! ```text
//! record ──► queue ──► Writer ──► inbox.record(everything that queued while the last batch committed)
//!    ▲                   │
//!    └── its own result ─┘
//! ```
//!
//! There is no timer. A writer takes whatever waits and commits it, and meanwhile the next batch queues up: an idle service
//! adds no latency, and a busy one commits hundreds of webhooks at the price of one commit.

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
use crate::domain::notification::{Content, Notification};
use crate::domain::outcome::Outcome;
use crate::store::error::StoreError;
use crate::telemetry::chain;
use crate::telemetry::metrics::InboxMetrics;

/// How much is written at once, and how much may wait for that.
#[derive(Debug, Clone, Copy)]
pub struct GroupCommitLimits {
    /// How many transactions are under way at once. All calls about one image go to one writer.
    pub writers: usize,
    /// How many calls may wait for each writer; one more is refused with [`StoreError::QueueFull`].
    pub queue: usize,
    /// How many calls are written in one transaction.
    pub batch: usize,
    /// How long a call may wait before it is begun; later it fails with [`StoreError::QueueTimeout`].
    pub max_wait: Duration,
}

/// A batch takes no more calls after so many bytes of payloads. That is thousands of what Cloudflare sends, and little of what a
/// database takes in one statement.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// An inbox that records in batches.
///
/// A call is queued as soon as it is first polled. From then on it does not matter whether anybody waits for its result.
pub struct GroupCommit {
    queues: Vec<mpsc::Sender<Call>>,
    hasher: RandomState,
    metrics: InboxMetrics,
}

/// One call of [`Inbox::record`]. It is recorded as a whole, in one transaction with others or alone.
struct Call {
    notifications: Vec<Arc<Notification>>,
    queued_at: Instant,
    result_sender: oneshot::Sender<RecordResult>,
}

type RecordResult = Result<Vec<Outcome>, StoreError>;

impl GroupCommit {
    /// An inbox that records in this one, as long as its writers run.
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

    /// The queue of the first image that these notifications are about.
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

/// The task that commits what is queued, one batch after another.
pub struct Writer {
    inbox: Arc<dyn Inbox>,
    calls: mpsc::Receiver<Call>,
    limits: GroupCommitLimits,
    /// How many calls the next batch may have: fewer than the limit after a batch that took too long.
    max_calls: usize,
    metrics: InboxMetrics,
}

impl Writer {
    /// Writes until it is asked to stop; then takes nothing new in, writes what is queued, and returns.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                // An idle writer hears at once that it is to stop, a busy one between two batches.
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

    /// A call, and what waits behind it.
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

    /// Writes the calls in one transaction; or each in its own, where that failed because of what one of them is about.
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
                    "a batch failed; its webhooks are recorded one by one"
                );
                self.write_one_by_one(batch).await;
            }
            Err(error) => {
                if error.is_timeout() {
                    // The same batch would take as long again.
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
                Err(error) => self.fail_calls([call], error),
            }
        }
    }

    fn queue_timeout(&self) -> StoreError {
        StoreError::QueueTimeout {
            max_wait: self.limits.max_wait,
        }
    }

    /// Answers every call with the same error.
    fn fail_calls(&self, calls: impl IntoIterator<Item = Call>, error: StoreError) {
        let error = Arc::new(error);
        for call in calls {
            self.metrics.failed.inc_by(call.notifications.len() as u64);
            call.complete(Err(StoreError::Shared(Arc::clone(&error))));
        }
    }

    /// A panic is one batch's failure, and not the end of the writer.
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
    /// How much of the bodies there is; the rest of a notification is no more than that.
    fn bytes(&self) -> usize {
        let bodies = self
            .notifications
            .iter()
            .map(|notification| match &notification.content {
                Content::Invalid(invalid) => invalid.body.as_bytes().len(),
                Content::Report(_) | Content::TestMessage | Content::OtherAlert => {
                    notification.payload.as_str().len()
                }
            });
        bodies.sum()
    }

    /// Whether whoever called has been waiting for so long that it is told to come again.
    fn has_waited_too_long(&self, max_wait: Duration) -> bool {
        self.queued_at.elapsed() >= max_wait
    }

    fn complete(self, result: RecordResult) {
        // The caller may have gone. What is recorded stays recorded.
        let _caller_gone = self.result_sender.send(result);
    }
}

#[cfg(test)]
mod tests;
