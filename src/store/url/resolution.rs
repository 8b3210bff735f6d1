//! The wait for the name of a Postgres server.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::PostgresUrl;

/// The time between two resolutions of a name.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl PostgresUrl {
    /// Waits until the name of the server can be resolved, or until the end of `limit`. At the start of a system, DNS can come later
    /// than the service. sqlx retries a refused connection, but no failed resolution.
    ///
    /// Returns nothing, because the first operation reports the error.
    pub(in crate::store) async fn wait_for_name(&self, limit: Duration) {
        if self.is_socket() {
            return;
        }
        let address = (self.options.get_host(), self.options.get_port());
        let resolving = async {
            while let Err(error) = tokio::net::lookup_host(address).await {
                tracing::debug!(%error, "the name of the database server cannot be resolved, retrying");
                sleep(RETRY_DELAY).await;
            }
        };
        // At the end of the limit, the first operation fails and names the host.
        let _resolved_or_not = timeout(limit, resolving).await;
    }
}
