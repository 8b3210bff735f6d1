//! What is counted, under which names, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The content type of what [`Metrics::render`] writes: `OpenMetrics` 1.0.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Declares metrics that are cheap to clone, since their counters are shared. For each: its field, type, name and help.
macro_rules! metrics {
    ($(#[$attribute:meta])* $metrics:ident { $($field:ident: $metric:ty = $name:literal, $help:literal;)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Default)]
        pub struct $metrics {
            $(#[doc = $help] pub $field: $metric,)*
        }

        impl $metrics {
            fn register(&self, registry: &mut Registry) {
                $(registry.register($name, $help, self.$field.clone());)*
            }
        }
    };
}

metrics! {
    /// What the inbox counts.
    InboxMetrics {
        waiting: Gauge = "inbox_waiting", "Webhooks that wait for the transaction before theirs";
        begun: Counter = "inbox_begun", "Webhooks that a transaction was begun for, each time that one was";
        recorded: Counter = "inbox_recorded", "Webhooks whose transaction was committed";
        commits: Counter = "inbox_commits", "Transactions that were committed for webhooks";
        failed: Counter = "inbox_failed", "Webhooks that were answered with an error of the database";
        refused: Counter = "inbox_refused", "Webhooks that were refused because too many waited already";
    }
}

metrics! {
    /// What the relay counts.
    RelayMetrics {
        claims: Counter = "relay_claims", "Times that a worker asked the database for due deliveries, and was answered";
        attempts: Counter = "relay_attempts", "Tries to deliver a message to an endpoint";
        delivered: Counter = "relay_delivered", "Deliveries that their endpoints took";
        gave_up: Counter = "relay_gave_up", "Deliveries that were given up";
    }
}

metrics! {
    /// What is counted of parked notifications.
    ParkingMetrics {
        sweeps: Counter = "parking_sweeps", "Passes over all parked notifications";
    }
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
