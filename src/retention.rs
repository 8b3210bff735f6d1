//! Retention: deletes old rows, a page at a time.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config_types::{Days, strict_bool};
use crate::store::{PrunableTable, PruneMode, PruneQuery, Retention, StoreError};
use crate::telemetry::chain;

/// The time between two runs.
const RUN_INTERVAL: Duration = Duration::from_hours(1);

/// The number of rows in one page. Deleting them takes some milliseconds.
const PAGE_SIZE: u32 = 1000;

/// The pause between two pages, for other writers.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The `retention` section of the configuration. 0 days means that rows are never deleted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The retention period of the audit log.
    pub logs_days: Days<0, 36_500>,
    /// The retention period of rejections.
    pub rejections_days: Days<0, 36_500>,
    /// The retention period of deliveries.
    pub deliveries_days: Days<0, 36_500>,
    /// Whether the periods also apply to rows from before the adoption of their table. If not, such rows are never deleted.
    #[serde(deserialize_with = "strict_bool")]
    pub delete_adopted_rows: bool,
}

impl Settings {
    /// Returns the retention period of a table. `None` means that rows are never deleted.
    fn period(&self, table: PrunableTable) -> Option<Duration> {
        let days = match table {
            PrunableTable::AuditLog => self.logs_days.days(),
            PrunableTable::Rejections => self.rejections_days.days(),
            PrunableTable::Deliveries => self.deliveries_days.days(),
        };
        (!days.is_zero()).then_some(days)
    }
}

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

    /// Deletes old rows now and then every hour, until `stop`. Several replicas may do this at the same time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let pruning = async {
            loop {
                for table in PrunableTable::ALL {
                    match self.prune(table, PruneMode::Delete).await {
                        Ok(0) => {}
                        Ok(rows) => {
                            tracing::info!(rows, table = table.name(), "deleted old rows");
                        }
                        Err(error) => tracing::warn!(
                            error = chain(&error),
                            table = table.name(),
                            "cannot delete old rows; retrying in an hour"
                        ),
                    }
                }
                tokio::time::sleep(RUN_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(pruning).await;
    }

    /// Deletes or counts the old rows of a table, and returns their number.
    ///
    /// Ids grow with time, so this stops at the first page without an old row.
    pub(crate) async fn prune(
        &self,
        table: PrunableTable,
        mode: PruneMode,
    ) -> Result<u64, StoreError> {
        let Some(period) = self.settings.period(table) else {
            return Ok(0);
        };
        let last_adopted_id = if self.settings.delete_adopted_rows {
            None
        } else {
            self.store.last_adopted_id(table).await?
        };
        let mut query = PruneQuery {
            table,
            after: last_adopted_id.unwrap_or(i64::MIN),
            limit: PAGE_SIZE,
            before: self.clock.now().saturating_sub(period),
            mode,
        };
        let mut pruned = 0;
        while let Some(page) = self.store.prune_page(&query).await? {
            if !page.has_old_rows {
                break;
            }
            pruned += page.pruned;
            query.after = page.last_id;
            if mode == PruneMode::Delete && page.pruned > 0 {
                tokio::time::sleep(PAGE_PAUSE).await;
            }
        }
        Ok(pruned)
    }
}
