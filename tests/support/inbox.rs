//! The store's inbox, without a service.

use std::sync::Arc;

use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{GroupCommit, Inbox, Store};
use cloudflare_images_webhook::telemetry::metrics::InboxMetrics;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::database::Database;

/// The inbox of migrated tables, with and without group commit. Dropping it stops its writers.
pub(crate) struct Inboxes {
    /// Each call has its own transaction.
    pub(crate) plain: Arc<dyn Inbox>,
    /// Concurrent calls share a transaction.
    pub(crate) grouped: Arc<dyn Inbox>,
    _writers_stop: DropGuard,
}

impl Inboxes {
    /// Opens the inbox with additional environment variables.
    pub(crate) async fn open(
        database: &Database,
        unknown_images: UnknownImages,
        variables: &[(&str, &str)],
    ) -> Self {
        let environment: Environment = [("DATABASE_URL", database.url.as_str())]
            .into_iter()
            .chain(variables.iter().copied())
            .collect();
        let settings = load(&environment, None)
            .expect("the settings are valid")
            .settings
            .database;
        let store = Store::open(&settings, unknown_images, Subscriptions::default())
            .await
            .expect("it opens");
        store.schema.migrate().await.expect("it migrates");

        let metrics = InboxMetrics::default();
        let (grouped, writers) = GroupCommit::new(&store.inbox, settings.limits(), &metrics);
        let stop = CancellationToken::new();
        for writer in writers {
            tokio::spawn(writer.run(stop.clone()));
        }
        Self {
            plain: store.inbox,
            grouped: Arc::new(grouped),
            _writers_stop: stop.drop_guard(),
        }
    }
}
