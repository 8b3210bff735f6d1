//! The receiver and its parts.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::body::BodyReader;
use super::memory_budget::MemoryBudget;
use super::payload::Pointers;
use super::refusal_counter::RefusalCounter;
use super::settings::Settings;
use crate::clock::Clock;
use crate::config_types::InvalidSetting;
use crate::signing::Verifier;
use crate::store::Inbox;
use crate::telemetry::metrics::WebhookMetrics;
use crate::web;

/// The maximum number of large bodies that are hashed at the same time. Further ones wait.
const MAX_CONCURRENT_HASHES: usize = 16;

/// The state of the webhook route.
pub struct Receiver {
    pub(super) admission: Arc<Admission>,
    pub(super) memory_budget: MemoryBudget,
    pub(super) body: BodyReader,
    /// One permit for each large body that is hashed.
    pub(super) hashing_permits: Arc<Semaphore>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) refusal_counter: Arc<RefusalCounter>,
    pub(super) envelope: Pointers,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: WebhookMetrics,
    /// The tracker of connections, and of tasks that may outlive their connection. It is empty after the last request has ended.
    pub(super) request_tasks: TaskTracker,
}

impl Receiver {
    /// Creates a receiver that records in this inbox. Fails on an invalid setting.
    ///
    /// The inbox must complete a call even if the future of the call is dropped, as [`GroupCommit`](crate::store::GroupCommit)
    /// does. On `request_tasks`, the receiver spawns tasks that may outlive their connection.
    pub fn new(
        settings: &Settings,
        server: &web::Settings,
        inbox: Arc<dyn Inbox>,
        clock: Arc<dyn Clock>,
        request_tasks: TaskTracker,
        metrics: WebhookMetrics,
    ) -> Result<Self, InvalidSetting> {
        Ok(Self {
            verifier: Arc::new(settings.verifier()?),
            memory_budget: MemoryBudget::new(server.request_memory(), metrics.clone()),
            hashing_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES)),
            body: BodyReader::new(
                server.body_limit_bytes.count(),
                server.read_timeout_secs.seconds(),
            ),
            envelope: settings.envelope.pointers(),
            inbox,
            admission: Arc::new(Admission::new(settings)?),
            refusal_counter: Arc::new(RefusalCounter::new(Arc::clone(&clock))),
            clock,
            metrics,
            request_tasks,
        })
    }

    /// Makes the receiver accept notifications that cannot be read, if the service can ask Cloudflare about their image.
    #[must_use]
    pub fn accept_hints(mut self, can_look_up: bool) -> Self {
        self.envelope.can_look_up = can_look_up;
        self
    }

    /// Makes the receiver give up bodies that are not complete when this token is cancelled.
    #[must_use]
    pub fn give_up_bodies_at(mut self, cutoff: CancellationToken) -> Self {
        self.body.cutoff = cutoff;
        self
    }
}
