//! What lookups need.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::settings::Settings;
use super::shared_budget::share_budget;
use crate::clock::Clock;
use crate::cloudflare::Client;
use crate::store::{Lookups, Store};

/// The age of the images that a command looks up if the service looks up none by itself.
const DEFAULT_AFTER: Duration = Duration::from_mins(15);

/// Looks up images, in the background and for commands.
pub(crate) struct Reconciler {
    pub(super) lookups: Arc<dyn Lookups>,
    pub(super) client: Client,
    /// Notified when this process has made lookups due.
    pub(super) wakeup: Arc<Notify>,
    pub(super) clock: Arc<dyn Clock>,
    /// The age from which a waiting image is looked up.
    pub(super) after: Duration,
}

impl Reconciler {
    /// Creates a reconciler. All processes with the same database share the limit on its calls.
    pub(crate) fn new(
        store: &Store,
        client: Client,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let client = share_budget(client, store, &clock).in_background();
        Self {
            lookups: Arc::clone(&store.lookups),
            client,
            wakeup: Arc::clone(&store.lookups_wakeup),
            clock,
            after: settings.after().unwrap_or(DEFAULT_AFTER),
        }
    }
}
