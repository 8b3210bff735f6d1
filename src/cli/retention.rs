//! `retention prune`: delete what is old now, or say how much that is.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;

use super::output::print_line;
use super::{open_existing_store, require_tables};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::retention::Pruner;
use crate::store::{PrunableTable, PruneMode, Store};

#[derive(Debug, Subcommand)]
pub(super) enum Retention {
    /// Delete what is older than the settings say, as a running service does every hour
    Prune {
        /// Only say how many rows that would be
        #[arg(long)]
        dry_run: bool,
    },
}

impl Retention {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let Self::Prune { dry_run } = self;
        let store = open_existing_store(loaded).await?;
        let result = prune(&store, loaded, dry_run).await;
        store.close().await;
        result.map(|()| ExitCode::SUCCESS)
    }
}

async fn prune(store: &Store, loaded: &Loaded, dry_run: bool) -> anyhow::Result<()> {
    require_tables(store).await?;
    let pruner = Pruner::new(
        store.retention.clone(),
        &loaded.settings.retention,
        Arc::new(SystemClock),
    );
    for table in PrunableTable::ALL {
        let name = table.name();
        let (what, said) = if dry_run {
            (PruneMode::Count, "would be deleted")
        } else {
            (PruneMode::Delete, "were deleted")
        };
        let rows = pruner.prune(table, what).await?;
        print_line(&format!("{name}: {rows} rows {said}"));
    }
    Ok(())
}
