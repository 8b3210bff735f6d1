//! `migrate`: runs the pending migrations.

use std::process::ExitCode;

use super::database::{OpenMode, with_store};
use super::output::print_line;
use crate::application::schema;
use crate::config::Loaded;

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let migrated = with_store(loaded, OpenMode::Migrate, async |context| {
        Ok(schema::migrate(context).await?)
    });
    match migrated.await? {
        0 => print_line("the tables are up to date"),
        count => print_line(&format!(
            "the tables are up to date; migrations run: {count}"
        )),
    }
    Ok(ExitCode::SUCCESS)
}
