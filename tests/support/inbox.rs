//! The store's inbox by itself, without a service around it.

use std::sync::Arc;

use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{GroupCommit, Inbox, Store};
use cloudflare_images_webhook::telemetry::metrics::InboxMetrics;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::database::Database;

/// An inbox, both ways, on migrated tables. Its writers end with it.
pub(crate) struct Inboxes {
    /// Each call has a transaction of its own.
    pub(crate) plain: Arc<dyn Inbox>,
    /// Calls that come at once share one.
    pub(crate) grouped: Arc<dyn Inbox>,
    _writers_stop: DropGuard,
}

impl Inboxes {
    /// Opens it with these environment variables beside.
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
            .expect("the settings are right")
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
