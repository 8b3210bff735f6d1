//! What is counted, under which names, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The content type of what [`Metrics::render`] writes: `OpenMetrics` 1.0.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the inbox counts. Cheap to clone: the counters are shared.
#[derive(Debug, Clone, Default)]
pub struct InboxMetrics {
    /// Webhooks that wait for the transaction before theirs.
    pub waiting: Gauge,
    /// Webhooks that a transaction was begun for, each time that one was.
    pub begun: Counter,
    /// Webhooks whose transaction was committed.
    pub recorded: Counter,
    /// Those transactions. The webhooks by these are how many share one.
    pub commits: Counter,
    /// Webhooks that were answered with an error of the database.
    pub failed: Counter,
    /// Webhooks that were refused because too many waited already.
    pub refused: Counter,
}

/// What the relay counts. Cheap to clone: the counters are shared.
#[derive(Debug, Clone, Default)]
pub struct RelayMetrics {
    /// Times that a worker asked the database for due deliveries, and was answered.
    pub claims: Counter,
    /// Tries.
    pub attempts: Counter,
    /// Deliveries that their endpoints took.
    pub delivered: Counter,
    /// Deliveries that were given up.
    pub gave_up: Counter,
}

/// What is counted of parked notifications. Cheap to clone: the counter is shared.
#[derive(Debug, Clone, Default)]
pub struct ParkingMetrics {
    /// Passes over all parked notifications.
    pub sweeps: Counter,
}

/// Everything that one run of the service counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tasks: Gauge<u64, AtomicU64>,
    /// The inbox's.
    pub inbox: InboxMetrics,
    /// The relay's.
    pub relay: RelayMetrics,
    /// The parking's.
    pub parking: ParkingMetrics,
}

impl InboxMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "inbox_waiting",
            "Webhooks that wait for the transaction before theirs",
            self.waiting.clone(),
        );
        for (name, help, counter) in [
            (
                "inbox_begun",
                "Webhooks that a transaction was begun for, each time that one was",
                &self.begun,
            ),
            (
                "inbox_recorded",
                "Webhooks whose transaction was committed",
                &self.recorded,
            ),
            (
                "inbox_commits",
                "Transactions that were committed for webhooks",
                &self.commits,
            ),
            (
                "inbox_failed",
                "Webhooks that were answered with an error of the database",
                &self.failed,
            ),
            (
                "inbox_refused",
                "Webhooks that were refused because too many waited already",
                &self.refused,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}

impl RelayMetrics {
    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "relay_claims",
                "Times that a worker asked the database for due deliveries, and was answered",
                &self.claims,
            ),
            (
                "relay_attempts",
                "Tries to deliver a message to an endpoint",
                &self.attempts,
            ),
            (
                "relay_delivered",
                "Deliveries that their endpoints took",
                &self.delivered,
            ),
            (
                "relay_gave_up",
                "Deliveries that were given up",
                &self.gave_up,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}

impl ParkingMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "parking_sweeps",
            "Passes over all parked notifications",
            self.sweeps.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cloudflare_images_webhook");
        let inbox = InboxMetrics::default();
        inbox.register(&mut registry);
        let relay = RelayMetrics::default();
        relay.register(&mut registry);
        let parking = ParkingMetrics::default();
        parking.register(&mut registry);
        let tasks = Gauge::default();
        registry.register(
            "runtime_tasks",
            "Tasks that are running or waiting, but for calls to other apps; each open connection is one",
            tasks.clone(),
        );
        Self {
            registry,
            tasks,
            inbox,
            relay,
            parking,
        }
    }
}

impl Metrics {
    /// What is counted by now, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            self.tasks.set(u64::try_from(tasks).unwrap_or(u64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written to it");
        text
    }
}
