//! The limit on calls of Cloudflare's API, which all processes with the same database share.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::cloudflare::{CallBudget, Client, NoCall, Quota};
use crate::store::{CallLimit, Store, TakenCall};
use crate::telemetry::chain;

/// The calls that all processes with the same database may make.
struct SharedBudget {
    limit: Arc<dyn CallLimit>,
    clock: Arc<dyn Clock>,
}

/// Returns the client with the limit that all processes with this database share.
pub(crate) fn share_budget(client: Client, store: &Store, clock: &Arc<dyn Clock>) -> Client {
    client.with_budget(Arc::new(SharedBudget {
        limit: Arc::clone(&store.call_limit),
        clock: Arc::clone(clock),
    }))
}

#[async_trait]
impl CallBudget for SharedBudget {
    async fn take(&self, quota: Quota, max_wait: Duration) -> Result<Duration, NoCall> {
        let max_ahead = quota.tolerance.saturating_add(max_wait);
        let taking = self
            .limit
            .take_call(quota.interval, max_ahead, self.clock.read());
        match taking.await {
            Ok(TakenCall::Taken(ahead)) => Ok(ahead.saturating_sub(quota.tolerance)),
            Ok(TakenCall::Refused(ahead)) => {
                Err(NoCall::Exhausted(ahead.saturating_sub(quota.tolerance)))
            }
            Err(error) => Err(NoCall::Unknown(chain(&error).clone())),
        }
    }

    async fn pause(&self, quota: Quota, time: Duration) {
        let ahead = quota.tolerance.saturating_add(time);
        if let Err(error) = self.limit.delay_calls(ahead, self.clock.read()).await {
            tracing::warn!(
                error = chain(&error),
                "cannot store that Cloudflare refuses further calls; calling again too early"
            );
        }
    }
}
