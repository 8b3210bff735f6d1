//! The receiver and its parts.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::body::BodyReader;
use super::payload::Pointers;
use super::refusal_counter::RefusalCounter;
use super::settings::Settings;
use crate::clock::Clock;
use crate::config_types::InvalidSetting;
use crate::signing::Verifier;
use crate::store::Inbox;
use crate::telemetry::metrics::WebhookMetrics;
use crate::web;

/// The state of the webhook route.
pub struct Receiver {
    pub(super) admission: Arc<Admission>,
    pub(super) body: BodyReader,
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
    ) -> Result<Self, InvalidSetting> {
        Ok(Self {
            verifier: Arc::new(settings.verifier()?),
            body: BodyReader::new(
                server.body_limit_bytes.count(),
                server.read_timeout_secs.seconds(),
            ),
            envelope: settings.envelope.pointers(),
            inbox,
            admission: Arc::new(Admission::new(settings)?),
            refusal_counter: Arc::new(RefusalCounter::new(Arc::clone(&clock))),
            clock,
            metrics: WebhookMetrics::default(),
            request_tasks,
        })
    }

    /// Counts in these metrics, which the service publishes.
    pub(crate) fn with_metrics(self, metrics: WebhookMetrics) -> Self {
        Self { metrics, ..self }
    }
}
