//! `healthcheck`: asks the ops listener of a running service whether it is ready.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::http::{client, local_address, read_text};
use super::output;
use crate::config::Loaded;
use crate::ops::READINESS_PATH;

/// The deadline of the request. Shorter than Docker's default of 30 s, because a slow service is not healthy.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let url = format!(
        "http://{}{READINESS_PATH}",
        local_address(loaded.settings.ops.listen.get())
    );
    let response = client(DEADLINE)?
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no response from {url}"))?;

    let is_ready = response.status().is_success();
    output::print_line(&read_text(response).await?);
    Ok(if is_ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
