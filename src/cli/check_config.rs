//! `check-config`: prints the effective settings and their sources, and checks that `serve` would accept them.

use std::process::ExitCode;

use super::output::print_line;
use crate::config::{Loaded, Profile};

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    loaded.check_programs().await?;
    print_line(match loaded.profile {
        Profile::Development => "# profile development (APP_PROFILE)",
        Profile::Production => "# profile production (APP_PROFILE)",
    });
    for setting in loaded.effective_settings() {
        print_line(&format!(
            "{} = {}  # {}",
            setting.key, setting.value, setting.origin
        ));
    }
    loaded.check_profile()?;
    Ok(ExitCode::SUCCESS)
}
