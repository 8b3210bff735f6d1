//! The running workers, by endpoint.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// The running workers, each with the name of its endpoint.
#[derive(Default)]
pub(in crate::relay) struct WorkerSet {
    tasks: JoinSet<()>,
    endpoints: HashMap<Id, String>,
}

impl WorkerSet {
    pub(in crate::relay) fn spawn(
        &mut self,
        endpoint: &str,
        worker: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.tasks.spawn(worker).id();
        self.endpoints.insert(id, endpoint.to_owned());
    }

    /// Waits until every worker has ended.
    ///
    /// # Panics
    ///
    /// Panics if a worker panicked, which ends the relay and the service. Otherwise the worker's
    /// endpoint would silently get no more deliveries.
    pub(in crate::relay) async fn join(mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let Err(error) = ended else {
                continue;
            };
            let endpoint = self.endpoints.get(&error.id());
            let endpoint = endpoint.expect("every task has an endpoint");
            tracing::error!(endpoint, "worker of the endpoint panicked");
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::captured_log::logged;

    #[tokio::test]
    async fn propagates_panic_and_names_endpoint() {
        let mut workers = WorkerSet::default();
        workers.spawn("idle", std::future::pending());
        workers.spawn("crm", async { panic!("on purpose") });

        let (joined, lines) = logged(tokio::spawn(workers.join())).await;

        assert!(joined.expect_err("a panic").is_panic());
        let named = lines.iter().any(|line| line["endpoint"] == "crm");
        assert!(named, "{lines:?}");
    }
}
