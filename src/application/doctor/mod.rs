//! The checks of an installation: what works, what does not, and what to do.
//!
//! A check returns data, and prints nothing. It changes nothing, except that the test message makes the service write an entry into
//! its audit log. A check that cannot run, because another one failed, is skipped.

mod account;
mod activity;
mod check;
mod database;
mod destinations;
mod installation;
mod json_keys;
mod limits;
mod listeners;
mod public_url;
mod secret;
mod shown_url;

use account::AccountChecks;
use check::CheckName;
pub(crate) use check::{Check, CheckStatus, Report};
pub(crate) use installation::{Installation, LocalUrl, Strictness};
use limits::Limits;
pub(crate) use public_url::TEST_MESSAGE;

/// Runs all checks, within [`RUN_LIMIT`](limits::RUN_LIMIT). They come in the order of [`CheckName`].
pub(crate) async fn examine(installation: &Installation<'_>) -> Report {
    let limits = Limits::start();
    let mut checks = vec![
        check_configuration(installation),
        secret::check(installation),
    ];
    let (listeners, database, remote) = tokio::join!(
        listeners::check(installation, limits),
        database::check(installation, limits),
        check_remote(installation, limits),
    );
    checks.extend(listeners);
    checks.extend(database);
    checks.extend(remote);
    checks.sort_by_key(|check| check.name);
    Report::of(checks)
}

/// Checks the account at Cloudflare, and then the public URL, which the account may tell.
async fn check_remote(installation: &Installation<'_>, limits: Limits) -> Vec<Check> {
    let AccountChecks { mut checks, url } = account::check(installation, limits).await;
    let url = installation.url.as_ref().or(url.as_ref());
    checks.push(public_url::check(installation, url.map(String::as_str), limits).await);
    checks
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
