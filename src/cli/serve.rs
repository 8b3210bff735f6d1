//! `serve`: receive webhooks until asked to stop.

use std::process::ExitCode;
use std::sync::Arc;

use crate::app::{Listeners, run as run_app};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::shutdown::Stop;
use crate::telemetry;

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    loaded.check_profile()?;
    telemetry::start(&loaded.settings.log);

    let stop = Stop::default();
    stop.on_signals()?;
    let listeners = Listeners::bind(&loaded.settings).await?;
    let ending = run_app(loaded, Arc::new(SystemClock), listeners, stop).await?;
    Ok(ExitCode::from(ending.exit_code()))
}
