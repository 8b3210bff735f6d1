//! Opens the database for a command.

use std::sync::Arc;

use anyhow::Context as _;

use crate::application::{ActionError, Context, schema};
use crate::clock::SystemClock;
use crate::config::{Loaded, Settings};
use crate::store::{DatabaseUrl, Store};
use crate::telemetry;

/// The state of the database that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenMode {
    /// The database must exist, and its tables must be up to date. A command that reads never creates a database.
    Existing,
    /// A missing database is created. If `database.migrate_on_start` is on, its tables are migrated.
    /// Otherwise they must be up to date.
    Create,
    /// A missing database is created. The command itself migrates the tables.
    Migrate,
}

impl OpenMode {
    fn migrates(self, settings: &Settings) -> bool {
        match self {
            Self::Existing => false,
            Self::Create => settings.database.migrate_on_start,
            Self::Migrate => true,
        }
    }
}

/// Opens the database, runs an action on it, and closes it in every case.
pub(super) async fn with_store<T>(
    loaded: &Loaded,
    mode: OpenMode,
    action: impl AsyncFnOnce(&Context) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let settings = &loaded.settings;
    if mode == OpenMode::Existing {
        require_database(&settings.database.url)?;
    }
    if mode.migrates(settings) {
        // The migrations log their changes of tables that exist already.
        telemetry::start(&settings.log).context("cannot start the log")?;
    }
    let unknown_images = settings.webhook.unknown_images();
    let subscriptions = loaded.endpoints.subscriptions().clone();
    let context = Context {
        store: Store::open(&settings.database, unknown_images, subscriptions).await?,
        clock: Arc::new(SystemClock),
        webhook: settings.webhook.clone(),
        endpoints: loaded.endpoints.clone(),
        retention: settings.retention.clone(),
        reconcile: settings.reconcile.clone(),
        can_look_up: settings.can_look_up(),
    };
    let result = match prepare_tables(&context, mode, settings).await {
        Ok(()) => action(&context).await,
        Err(error) => Err(error.into()),
    };
    context.store.close().await;
    result
}

fn require_database(url: &DatabaseUrl) -> anyhow::Result<()> {
    match url {
        DatabaseUrl::Sqlite(url) if !url.path.exists() => anyhow::bail!(
            "there is no database at {} (database.url). `serve` and `migrate` create it.",
            url.path.display()
        ),
        DatabaseUrl::Sqlite(_) | DatabaseUrl::Postgres(_) => Ok(()),
    }
}

async fn prepare_tables(
    context: &Context,
    mode: OpenMode,
    settings: &Settings,
) -> Result<(), ActionError> {
    match mode {
        OpenMode::Create if settings.database.migrate_on_start => {
            schema::migrate(context).await.map(drop)
        }
        OpenMode::Existing | OpenMode::Create => schema::require_current(context).await,
        OpenMode::Migrate => Ok(()),
    }
}
