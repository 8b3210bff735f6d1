//! The fixture of each test: its own database, and the stores that it opens.

use std::sync::Mutex;

use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::event::{EventKind, Model, Subscription, Subscriptions};
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::Store;

use crate::support::database::Database;
use crate::support::pooler::Pooler;

/// A kind of database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
    /// Postgres behind `PgBouncer` in transaction mode.
    Pooler,
}

/// A database and its open stores.
pub(crate) struct Fixture {
    pub(crate) database: Database,
    /// The URL that the stores use.
    store_url: String,
    opened: Mutex<Vec<Store>>,
}

impl Fixture {
    /// Creates an empty database.
    pub(crate) async fn new(backend: Backend) -> Self {
        let database = match backend {
            Backend::Sqlite => Database::sqlite(),
            Backend::Postgres | Backend::Pooler => Database::postgres().await,
        };
        let store_url = match backend {
            Backend::Sqlite | Backend::Postgres => database.url.clone(),
            Backend::Pooler => Pooler::in_transaction_mode().url(&database),
        };
        Self {
            database,
            store_url,
            opened: Mutex::default(),
        }
    }

    /// Returns the kind of the database.
    pub(crate) fn backend(&self) -> Backend {
        if self.database.is_postgres() {
            Backend::Postgres
        } else {
            Backend::Sqlite
        }
    }

    /// Opens a migrated store that rejects unknown images and publishes nothing.
    pub(crate) async fn open(&self) -> Store {
        self.open_with(UnknownImages::Reject, Subscriptions::default())
            .await
    }

    /// Opens a migrated store that creates unknown images and publishes to these endpoints.
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
        store
            .schema
            .migrate()
            .await
            .expect("the migration succeeds");
        store
    }

    /// Opens a store without migrating its tables.
    pub(crate) async fn open_unmigrated(
        &self,
        unknown_images: UnknownImages,
        subscriptions: Subscriptions,
    ) -> Store {
        let environment: Environment = [
            ("DATABASE_URL", self.store_url.as_str()),
            // Row locks may last long on a slow machine.
            ("APP__DATABASE__TIMEOUT_SECS", "300"),
        ]
        .into_iter()
        .collect();
        let loaded = load(&environment, None).expect("the settings are valid");
        let store = Store::open(&loaded.settings.database, unknown_images, subscriptions)
            .await
            .expect("the store opens");
        self.opened.lock().expect("no panic").push(store.clone());
        store
    }

    /// Closes every store. Then the SQLite threads have logged all statements.
    pub(crate) async fn close(self) {
        for store in self.opened.into_inner().expect("no panic") {
            store.close().await;
        }
    }

    /// Writes an invalid value into a column of every row, without the table's CHECK constraints.
    pub(crate) async fn write_unchecked(&self, table: &str, column: &str, value: &str) {
        let disable_checks = if self.database.is_postgres() {
            format!(
                "ALTER TABLE {table} DROP CONSTRAINT {table}_{column}_check,
                 DROP CONSTRAINT IF EXISTS {table}_times_check"
            )
        } else {
            "PRAGMA ignore_check_constraints = ON".to_owned()
        };
        let script = format!("{disable_checks}; UPDATE {table} SET {column} = '{value}'");
        self.database.execute_script(&script).await;
    }
}

/// Returns a subscription to all image events, unordered.
pub(crate) fn subscription(endpoint: &str) -> Subscription {
    Subscription {
        endpoint: endpoint.to_owned(),
        kinds: EventKind::ALL.to_vec(),
        models: vec![Model::Image],
        ordered: false,
    }
}

/// Defines three tests for each listed function, and `run_all`, which runs all functions.
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

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn behind_pooler() {
                    let fixture = Fixture::new(Backend::Pooler).await;
                    super::$name(&fixture).await;
                    fixture.close().await;
                }
            }
        )+
    };
}
pub(crate) use on_every_backend;
