//! Retention: what is older than somebody wants to keep it is deleted, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::setting::Bounded;
use crate::store::{Aged, Pruning, Retention, StoreError};
use crate::telemetry::chain;

/// How often it is looked for what is too old.
const PERIOD: Duration = Duration::from_hours(1);

/// How many rows are looked at in one transaction; it deletes no more than these, and takes some milliseconds.
const PAGE: u32 = 1000;

/// How long whoever else writes has for himself between two such transactions.
const PAUSE: Duration = Duration::from_millis(100);

/// The `retention` section of the configuration. 0 days: for ever.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// For how long the audit trail is kept.
    pub logs_days: Bounded<0, 36_500>,
    /// For how long is kept what was not applied.
    pub rejections_days: Bounded<0, 36_500>,
    /// For how long is kept what other apps were told.
    pub deliveries_days: Bounded<0, 36_500>,
}

impl Settings {
    /// For how long these are kept; `None`: for ever.
    fn kept_for(&self, aged: Aged) -> Option<Duration> {
        let days = match aged {
            Aged::Logs => self.logs_days.days(),
            Aged::Rejections => self.rejections_days.days(),
            Aged::Deliveries => self.deliveries_days.days(),
        };
        (!days.is_zero()).then_some(days)
    }
}

/// Deletes what is too old.
pub(crate) struct Pruner {
    store: Arc<dyn Retention>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Pruner {
    pub(crate) fn new(
        store: Arc<dyn Retention>,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            settings: settings.clone(),
            clock,
        }
    }

    /// Deletes at once and then every hour, until it is asked to stop. Several replicas may do so at once.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let pruning = async {
            loop {
                for aged in Aged::ALL {
                    match self.prune(aged, Pruning::Delete).await {
                        Ok(0) => {}
                        Ok(rows) => {
                            tracing::info!(rows, table = aged.table(), "old rows were deleted");
                        }
                        Err(error) => tracing::warn!(
                            error = chain(&error),
                            table = aged.table(),
                            "old rows could not be deleted; it will be tried again"
                        ),
                    }
                }
                tokio::time::sleep(PERIOD).await;
            }
        };
        stop.run_until_cancelled(pruning).await;
    }

    /// Deletes or counts the rows of this kind that are too old; how many they are.
    ///
    /// The rows stand in the order in which they came, so that it ends with the first page on which none is too old.
    pub(crate) async fn prune(&self, aged: Aged, what: Pruning) -> Result<u64, StoreError> {
        let Some(kept_for) = self.settings.kept_for(aged) else {
            return Ok(0);
        };
        let before = self.clock.now().saturating_sub(kept_for);
        let (mut after, mut old) = (i64::MIN, 0);
        while let Some(page) = self
            .store
            .prune_page(aged, after, before, PAGE, what)
            .await?
        {
            if !page.has_old {
                break;
            }
            old += page.old;
            after = page.last;
            if what == Pruning::Delete && page.old > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(old)
    }
}
