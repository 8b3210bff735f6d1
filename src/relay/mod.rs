//! The relay: delivers events to other apps, signed and with retries.
//!
//! ```text
//!  store::Outbox ──claim──► worker ──► build the message ──► send it ──► the endpoint
//!        ▲                  (one per endpoint)                  │
//!        └────settle────── settler ◄────── outcome ◄────────────┘
//! ```
//!
//! Receiving and relaying share only tables. The transaction that records a notification also
//! writes one delivery for each endpoint that subscribes to its event. A worker leases deliveries
//! for a limited time, attempts them outside a transaction, and settles them under the lease. If the
//! process dies in between, the lease expires and another worker tries again. So each event is
//! delivered at least once.
//!
//! The modules form layers. A module imports only from lower layers; `tests/architecture.rs` checks
//! this.
//!
//! ```text
//! mod                    Relay: starts the workers and the settler
//! dispatch   tester      when and how often a delivery is sent; manual tests and previews
//! endpoint               the configured endpoints, checked and built
//! payload    transport   the message for an endpoint; the protocols that send it
//! settings   deep_json   the configuration as data; reading deeply nested JSON
//! ```

mod deep_json;
mod dispatch;
mod endpoint;
pub mod payload;
mod settings;
mod tester;
mod transport;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

use dispatch::{
    Alerts, BacklogWatch, LowPriorityRuntime, RelayThrottle, Settler, Worker, WorkerContext,
    WorkerSet,
};

pub use deep_json::{MAX_DEPTH, UnreadableJson};
pub(crate) use dispatch::PAUSED_BY_SETTING;
pub use endpoint::Endpoints;
pub use settings::Settings;
pub(crate) use tester::{EndpointTester, Preview};

/// The two steps of a stop, as cancellation tokens.
#[derive(Clone)]
pub(crate) struct StopTokens {
    /// Cancelled to start no further call.
    pub(crate) stop: CancellationToken,
    /// Cancelled to give up the calls in progress.
    pub(crate) cutoff: CancellationToken,
}

/// Delivers events to the endpoints.
pub(crate) struct Relay {
    endpoints: Endpoints,
}

impl Relay {
    pub(crate) fn new(endpoints: Endpoints) -> Self {
        Self { endpoints }
    }

    /// Delivers until the service stops. Then waits for the calls in progress, until the cutoff, and
    /// releases the deliveries without a result.
    pub(crate) async fn run(
        self,
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        StopTokens { stop, cutoff }: StopTokens,
    ) {
        let throttle = RelayThrottle::new(metrics.inbox.clone(), stop.clone());
        let throttle = Arc::new(throttle);
        let backlog = BacklogWatch {
            endpoints: self.endpoints.clone(),
            catalog: store.delivery_catalog.clone(),
            throttle: Arc::clone(&throttle),
            metrics: metrics.relay.clone(),
            stop: stop.clone(),
        };
        if self.endpoints.event_endpoints().is_empty() {
            // A task that ends before the service stops counts as crashed, so this waits for the stop.
            return backlog.run().await;
        }
        let low_priority_runtime = match LowPriorityRuntime::start() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Ends the service, like a crashed task.
                tracing::error!(%error, "the relay could not start its threads");
                return;
            }
        };
        let (settler, settlements) = Settler::new(
            store.outbox.clone(),
            Arc::clone(&throttle),
            metrics.relay.clone(),
            stop.clone(),
        );
        let context = WorkerContext {
            outbox: store.outbox.clone(),
            clock,
            settlements,
            throttle,
            metrics: metrics.relay.clone(),
            main_runtime: Handle::current(),
            low_priority_runtime: low_priority_runtime.handle(),
            stop,
            cutoff,
        };
        let workers = self.start_workers(&store, &context);
        // Now only the workers have senders, so the settler ends after the last worker.
        drop(context);
        tokio::join!(settler.run(), workers.join(), backlog.run());
    }

    fn start_workers(&self, store: &Store, context: &WorkerContext) -> WorkerSet {
        let alerts = Alerts::new(self.endpoints.alert_policy());
        let event_endpoints = self.endpoints.event_endpoints().iter();
        let event_endpoints = event_endpoints.map(|endpoint| (endpoint, alerts));
        // `Alerts::default()` creates no alerts. Otherwise a failed alert could cause alerts without end.
        let alert_endpoints = self.endpoints.alert_endpoints().iter();
        let alert_endpoints = alert_endpoints.map(|endpoint| (endpoint, Alerts::default()));

        let mut workers = WorkerSet::default();
        for (endpoint, alerts) in event_endpoints.chain(alert_endpoints) {
            let wakeup = store.wakeup(&endpoint.name);
            let worker = Worker::new(Arc::clone(endpoint), alerts, wakeup, context.clone());
            workers.spawn(&endpoint.name, worker.run());
        }
        workers
    }
}
