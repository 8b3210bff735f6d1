//! The checks of an installation: what works, what does not, and what to do.
//!
//! A check returns data, and prints nothing. It changes nothing, except that the test message makes the service write an entry into
//! its audit log. A check that cannot run, because another one failed, is skipped.

mod check;
mod database;
mod installation;
mod limits;
mod listeners;
mod secret;

use check::CheckName;
pub(crate) use check::{Check, CheckStatus, Report};
pub(crate) use installation::{Installation, LocalUrl, Strictness};
use limits::Limits;

/// Runs all checks, within [`RUN_LIMIT`](limits::RUN_LIMIT). They come in the order of [`CheckName`].
pub(crate) async fn examine(installation: &Installation<'_>) -> Report {
    let limits = Limits::start();
    let mut checks = vec![
        check_configuration(installation),
        secret::check(installation),
    ];
    let (listeners, database) = tokio::join!(
        listeners::check(installation, limits),
        database::check(installation, limits),
    );
    checks.extend(listeners);
    checks.extend(database);
    checks.sort_by_key(|check| check.name);
    Report::of(checks)
}

fn check_configuration(installation: &Installation<'_>) -> Check {
    let name = CheckName::Configuration;
    let warnings = &installation.warnings;
    if warnings.is_empty() {
        return Check::ok(name, "the configuration is valid");
    }
    Check::warning(
        name,
        warnings.join(" "),
        "Change these settings. `check-config` prints all settings with their sources.",
    )
}
