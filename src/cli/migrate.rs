//! `migrate`: bring the tables up to date.

use std::process::ExitCode;

use super::{open_store, output};
use crate::config::Loaded;

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let store = open_store(loaded).await?;
    let pending = store.schema.pending().await?;
    store.schema.migrate().await?;
    store.close().await;

    match pending.len() {
        0 => output::print_line("the tables are up to date"),
        count => output::print_line(&format!(
            "the tables are up to date; migrations run: {count}"
        )),
    }
    Ok(ExitCode::SUCCESS)
}
