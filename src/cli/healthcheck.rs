//! `healthcheck`: ask the ops listener of a running service whether it is ready.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::http::{client, reachable, text};
use super::output;
use crate::config::Loaded;
use crate::ops::READINESS_PATH;

/// Docker's own default is 30 s; a service that needs more than a few is not healthy.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let url = format!(
        "http://{}{READINESS_PATH}",
        reachable(loaded.settings.ops.listen.get())
    );
    let response = client(DEADLINE)?
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no answer from {url}"))?;

    let is_ready = response.status().is_success();
    output::print_line(&text(response).await?);
    Ok(if is_ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
