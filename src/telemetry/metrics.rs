//! The metrics, for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::dropped_log_lines;

/// The content type of [`Metrics::render`]: `OpenMetrics` 1.0.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Declares a struct of metrics with a field, a type, a name and a help text for each. Clones share their counters.
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
    /// The metrics of the inbox.
    InboxMetrics {
        queue_depth: Gauge = "inbox_queue_depth", "Webhooks that wait for a transaction";
        write_attempts: Counter = "inbox_write_attempts", "Webhooks that entered a transaction; a retried webhook counts again";
        recorded: Counter = "inbox_recorded", "Webhooks in committed transactions";
        transactions: Counter = "inbox_transactions", "Committed transactions with webhooks";
        failed: Counter = "inbox_failed", "Webhooks that failed with a database error";
        without_details: Counter = "inbox_without_details", "Webhooks recorded without details, because the database refused them with details";
        rejected: Counter = "inbox_rejected", "Webhooks that were rejected because the queue was full";
    }
}

metrics! {
    /// The metrics of received webhooks.
    WebhookMetrics {
        details_ignored: Counter = "webhook_details_ignored", "Fields of notifications that were ignored because they break a rule";
        out_of_memory: Counter = "unauthenticated_memory_exceeded",
            "Webhooks that were answered with 503 because unauthenticated requests used too much memory";
    }
}

metrics! {
    /// The metrics of the relay.
    RelayMetrics {
        claims: Counter = "relay_claims", "Database queries for due deliveries";
        attempts: Counter = "relay_attempts", "Attempts to deliver an event to an endpoint";
        deliveries: Family<DeliveryResult, Counter> = "relay_deliveries", "Deliveries that ended, by result: delivered or failed";
        waiting: Family<EndpointLabel, Gauge> = "relay_waiting_deliveries", "Deliveries that wait for an endpoint of the configuration, by endpoint; counted once a minute";
    }
}

/// The label of a configured endpoint.
pub(crate) type EndpointLabel = [(&'static str, String); 1];

/// The label of a delivery that ended.
pub(crate) type DeliveryResult = [(&'static str, &'static str); 1];

/// The label of a delivery that its endpoint accepted.
pub(crate) const DELIVERED: DeliveryResult = [("result", "delivered")];

/// The label of a delivery that failed for good.
pub(crate) const FAILED: DeliveryResult = [("result", "failed")];

metrics! {
    /// The metrics of parked notifications.
    ParkedMetrics {
        sweeps: Counter = "parked_sweeps", "Passes over all parked notifications";
    }
}

metrics! {
    /// The metrics of the HTTP listeners.
    WebMetrics {
        closed: Family<CloseReason, Counter> = "connections_closed",
            "Connections that the service closed, by reason: not-allowed (address), client-limit or replaced (idle while all were in use)";
    }
}

/// The label of a connection that the service closed.
pub(crate) type CloseReason = [(&'static str, &'static str); 1];

/// The label of a connection from an address that is not allowed.
pub(crate) const NOT_ALLOWED: CloseReason = [("reason", "not-allowed")];

/// The label of a connection whose client has too many connections.
pub(crate) const CLIENT_LIMIT: CloseReason = [("reason", "client-limit")];

/// The label of an idle connection that made room for a new one.
pub(crate) const REPLACED: CloseReason = [("reason", "replaced")];

impl WebMetrics {
    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&reason).inc();
    }
}

/// The metrics of one run of the service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tasks: Gauge<u64, AtomicU64>,
    dropped_log_lines: Counter,
    /// Received notifications.
    pub webhook: WebhookMetrics,
    /// The inbox.
    pub inbox: InboxMetrics,
    /// The relay.
    pub relay: RelayMetrics,
    /// Parked notifications.
    pub parked: ParkedMetrics,
    /// The HTTP listeners.
    pub web: WebMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cloudflare_images_webhook");
        let webhook = WebhookMetrics::default();
        webhook.register(&mut registry);
        let inbox = InboxMetrics::default();
        inbox.register(&mut registry);
        let relay = RelayMetrics::default();
        relay.register(&mut registry);
        // Both series exist from the start, because an alert rule needs a series even before the first delivery.
        for result in [DELIVERED, FAILED] {
            drop(relay.deliveries.get_or_create(&result));
        }
        let parked = ParkedMetrics::default();
        parked.register(&mut registry);
        let web = WebMetrics::default();
        web.register(&mut registry);
        for reason in [NOT_ALLOWED, CLIENT_LIMIT, REPLACED] {
            drop(web.closed.get_or_create(&reason));
        }
        let tasks = Gauge::default();
        registry.register(
            "tokio_alive_tasks",
            "Tasks of the main runtime, including one for each open connection; HTTP calls to endpoints run elsewhere",
            tasks.clone(),
        );
        let dropped_log_lines = Counter::default();
        registry.register(
            "log_lines_dropped",
            "Log lines that were dropped because they could not be written",
            dropped_log_lines.clone(),
        );
        Self {
            registry,
            tasks,
            dropped_log_lines,
            webhook,
            inbox,
            relay,
            parked,
            web,
        }
    }
}

impl Metrics {
    /// Returns the current values in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            self.tasks.set(u64::try_from(tasks).unwrap_or(u64::MAX));
        }
        self.update_dropped_log_lines();
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string never fails");
        text
    }

    /// Raises the counter to the current number. Concurrent calls may not add the difference twice.
    fn update_dropped_log_lines(&self) {
        let counter = self.dropped_log_lines.inner();
        counter.fetch_max(dropped_log_lines(), Ordering::Relaxed);
    }
}
