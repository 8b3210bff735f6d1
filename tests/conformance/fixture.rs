//! A database of one test's own, and the stores that the test opens on it.

use std::sync::Mutex;

use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::event::{EventKind, Model, Subscription, Subscriptions};
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::Store;

use crate::support::database::Database;

/// A kind of database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// A database, and the stores that are open on it.
pub(crate) struct Fixture {
    pub(crate) database: Database,
    opened: Mutex<Vec<Store>>,
}

impl Fixture {
    /// Creates an empty database.
    pub(crate) async fn new(backend: Backend) -> Self {
        let database = match backend {
            Backend::Sqlite => Database::sqlite(),
            Backend::Postgres => Database::postgres().await,
        };
        Self {
            database,
            opened: Mutex::default(),
        }
    }

    /// Opens a migrated store that rejects unknown images and publishes nothing.
    pub(crate) async fn open(&self) -> Store {
        self.open_with(UnknownImages::Reject, Subscriptions::default())
            .await
    }

    /// Opens a migrated store that creates unknown images and publishes their events to these endpoints.
    pub(crate) async fn open_for(&self, endpoints: &[&str]) -> Store {
        let endpoints = endpoints
            .iter()
            .map(|endpoint| subscription(endpoint))
            .collect();
        let subscriptions = Subscriptions {
            endpoints,
            channel: None,
        };
        self.open_with(UnknownImages::Create, subscriptions).await
    }

    /// Opens a migrated store.
    pub(crate) async fn open_with(
        &self,
        unknown_images: UnknownImages,
        subscriptions: Subscriptions,
    ) -> Store {
        let store = self.open_unmigrated(unknown_images, subscriptions).await;
        store.schema.migrate().await.expect("it migrates");
        store
    }

    /// Opens a store, and leaves its tables as they are.
    pub(crate) async fn open_unmigrated(
        &self,
        unknown_images: UnknownImages,
        subscriptions: Subscriptions,
    ) -> Store {
        let environment: Environment = [
            ("DATABASE_URL", self.database.url.as_str()),
            // A slow machine may hold a row's lock for long.
            ("APP__DATABASE__TIMEOUT_SECS", "300"),
        ]
        .into_iter()
        .collect();
        let loaded = load(&environment, None).expect("the settings are right");
        let store = Store::open(&loaded.settings.database, unknown_images, subscriptions)
            .await
            .expect("it opens");
        self.opened.lock().expect("no panic").push(store.clone());
        store
    }

    /// Closes every store. SQLite's threads have logged all their statements then.
    pub(crate) async fn close(self) {
        for store in self.opened.into_inner().expect("no panic") {
            store.close().await;
        }
    }

    /// Writes a word that the table's check refuses into a column of every row.
    pub(crate) async fn write_unchecked(&self, table: &str, column: &str, word: &str) {
        let lift = if self.database.is_postgres() {
            format!(
                "ALTER TABLE {table} DROP CONSTRAINT {table}_{column}_check,
                 DROP CONSTRAINT IF EXISTS {table}_times_check"
            )
        } else {
            "PRAGMA ignore_check_constraints = ON".to_owned()
        };
        let script = format!("{lift}; UPDATE {table} SET {column} = '{word}'");
        self.database.execute_script(&script).await;
    }
}

/// A subscription to every event about images, in any order.
pub(crate) fn subscription(endpoint: &str) -> Subscription {
    Subscription {
        endpoint: endpoint.to_owned(),
        kinds: EventKind::ALL.to_vec(),
        models: vec![Model::Image],
        ordered: false,
    }
}

/// Makes two tests of each function that is listed, and `run_all`, which runs them one after another.
macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        /// Runs every test of this file, each on a new database.
        pub(crate) async fn run_all(backend: $crate::fixture::Backend) {
            $(
                let fixture = $crate::fixture::Fixture::new(backend).await;
                $name(&fixture).await;
                fixture.close().await;
            )+
        }

        $(
            mod $name {
                use $crate::fixture::{Backend, Fixture};

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    let fixture = Fixture::new(Backend::Sqlite).await;
                    super::$name(&fixture).await;
                    fixture.close().await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    let fixture = Fixture::new(Backend::Postgres).await;
                    super::$name(&fixture).await;
                    fixture.close().await;
                }
            }
        )+
    };
}
pub(crate) use on_every_backend;
