//! `serve`: receives webhooks until shutdown.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use crate::app::{Listeners, run as run_app};
use crate::clock::SystemClock;
use crate::config::{ConfigWarning, Loaded};
use crate::shutdown::Shutdown;
use crate::telemetry;

pub(super) async fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    loaded.check_profile()?;
    loaded.check_programs().await?;
    telemetry::start(&loaded.settings.log).context("cannot start the log")?;
    for warning in loaded.warnings() {
        log(warning);
    }

    warn_about_network(loaded);
    if loaded.has_platform_address {
        let address = loaded.settings.server.listen.get();
        tracing::info!(%address, "PORT is set and server.listen is not, so the service listens on every address");
    }

    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let listeners = Listeners::bind(&loaded.settings).await?;
    let exit_reason = run_app(loaded, Arc::new(SystemClock), listeners, shutdown).await?;
    Ok(ExitCode::from(exit_reason.exit_code()))
}

fn log(warning: &ConfigWarning) {
    match warning {
        ConfigWarning::RenamedKey(renamed) => tracing::warn!(
            old = renamed.old,
            new = renamed.new,
            origin = renamed.origin,
            "a setting has an old name"
        ),
        ConfigWarning::IgnoredParameters { parameters, origin } => tracing::warn!(
            parameters,
            origin,
            "parameters of the database URL have no effect"
        ),
        ConfigWarning::ShortSecret { key } => {
            tracing::warn!(key, "a webhook secret has fewer than 16 bytes");
        }
        ConfigWarning::AmbiguousSecret => tracing::warn!(
            "the scheme standard accepts a webhook secret as text and as base64; write whsec_ before base64"
        ),
        ConfigWarning::QuotedSecret => {
            tracing::warn!("a webhook secret has quotes around it, which are a part of it");
        }
        ConfigWarning::AnyAuthority { origin } => tracing::warn!(
            origin,
            "a database server with a certificate of any authority of this system is accepted; use sslmode=verify-full in the database URL"
        ),
        ConfigWarning::UnverifiedDatabase { origin } => tracing::warn!(
            origin,
            "the identity of the database server is not checked; use sslmode=verify-full in the database URL"
        ),
    }
}

/// Warns if endpoints cannot be reached or verified as other programs on this system do it.
fn warn_about_network(loaded: &Loaded) {
    if let Some(reason) = loaded.endpoints.missing_authorities() {
        tracing::warn!(
            reason,
            "no certificate authority is known, so endpoints with https:// or tls:// fail"
        );
    }
    if let Some(reason) = loaded.endpoints.incomplete_authorities() {
        tracing::warn!(
            reason,
            "some certificate authorities could not be loaded, so endpoints of these authorities fail"
        );
    }
    let has_endpoints = loaded.endpoints.names().next().is_some();
    if let Some(variable) = loaded.unused_proxy.filter(|_| has_endpoints) {
        tracing::warn!(
            variable,
            "the service does not use the proxy of the environment; set relay.proxy_url to use one"
        );
    }
}
