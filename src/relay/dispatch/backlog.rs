//! The backlog: the number of deliveries that wait for each endpoint, as a metric.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::throttle::RelayThrottle;
use crate::relay::endpoint::Endpoints;
use crate::store::{DeliveryCatalog, StoreError};
use crate::telemetry::chain;
use crate::telemetry::metrics::RelayMetrics;

/// The time between two counts. A count reads the index of all waiting deliveries.
const INTERVAL: Duration = Duration::from_mins(1);

/// Counts the waiting deliveries once a minute.
pub(in crate::relay) struct BacklogWatch {
    pub(in crate::relay) endpoints: Endpoints,
    pub(in crate::relay) catalog: Arc<dyn DeliveryCatalog>,
    pub(in crate::relay) throttle: Arc<RelayThrottle>,
    pub(in crate::relay) metrics: RelayMetrics,
    pub(in crate::relay) stop: CancellationToken,
}

impl BacklogWatch {
    /// Counts until the service stops. Logs once which endpoints have deliveries and are not configured.
    pub(in crate::relay) async fn run(self) {
        let counting = async {
            let mut is_first = true;
            loop {
                match self.count().await {
                    Ok(not_configured) => {
                        if std::mem::take(&mut is_first) {
                            log_not_configured(&not_configured);
                        }
                    }
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "waiting deliveries could not be counted, retrying"
                    ),
                }
                tokio::time::sleep(INTERVAL).await;
            }
        };
        self.stop.run_until_cancelled(counting).await;
    }

    /// Sets the metric of each configured endpoint. Returns the other endpoints with waiting deliveries.
    async fn count(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let waiting = self.throttle.run(self.catalog.waiting_deliveries()).await?;
        for name in self.endpoints.names() {
            let of_endpoint = waiting.iter().find(|(endpoint, _)| endpoint == name);
            let count = of_endpoint.map_or(0, |(_, count)| *count);
            let label = [("endpoint", name.to_owned())];
            self.metrics.waiting.get_or_create(&label).set(count);
        }
        let is_unknown = |(endpoint, _): &(String, i64)| !self.endpoints.contains(endpoint);
        Ok(waiting.into_iter().filter(is_unknown).collect())
    }
}

fn log_not_configured(endpoints: &[(String, i64)]) {
    for (endpoint, waiting) in endpoints {
        tracing::warn!(
            endpoint,
            waiting,
            "deliveries wait for an endpoint that is not configured; use `deliveries move` or `deliveries delete`"
        );
    }
}
