//! `retention prune`.

use std::process::ExitCode;

use clap::Subcommand;

use super::database::{OpenMode, with_store};
use super::output::print_line;
use crate::application::retention;
use crate::config::Loaded;
use crate::store::PruneMode;

/// The subcommands of `retention`.
#[derive(Debug, Subcommand)]
pub(super) enum Retention {
    /// Delete rows that are older than their retention period
    Prune {
        /// Dry run: the numbers of such rows, without deleting them
        #[arg(long)]
        dry_run: bool,
    },
}

impl Retention {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let Self::Prune { dry_run } = self;
        let (mode, result) = if dry_run {
            (PruneMode::Count, "would be deleted")
        } else {
            (PruneMode::Delete, "were deleted")
        };
        with_store(loaded, OpenMode::Existing, async |context| {
            let pruning = retention::prune(context, mode, |table, rows| {
                print_line(&format!("{table}: {rows} rows {result}"));
            });
            Ok(pruning.await?)
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }
}
