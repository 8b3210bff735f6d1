//! `doctor`: checks the installation, and prints what to do.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use url::Url;

use super::http::local_address;
use super::output::{escape_control, print_json, print_line};
use crate::application::doctor::{
    Check, CheckStatus, Installation, LocalUrl, Report, Strictness, examine,
};
use crate::clock::SystemClock;
use crate::cloudflare::Client;
use crate::config::{ConfigWarning, Loaded, Profile};
use crate::config_types::ListenAddress;
use crate::ops::READINESS_PATH;

/// The options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Public URL of the webhook [default: that of the destination at Cloudflare]
    #[arg(long, value_parser = parse_url)]
    url: Option<String>,
    /// JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        loaded.check_programs().await?;
        let settings = &loaded.settings;
        // The check of the secret reports a short one.
        let is_reported =
            |warning: &&ConfigWarning| !matches!(warning, ConfigWarning::ShortSecret { .. });
        let warnings = loaded.warnings().iter().filter(is_reported);
        let client = Client::new(&settings.cloudflare, loaded.authorities());
        let report = examine(&Installation {
            warnings: warnings.map(ToString::to_string).collect(),
            strictness: match loaded.profile {
                Profile::Development => Strictness::Development,
                Profile::Production => Strictness::Production,
            },
            webhook: &settings.webhook,
            database: &settings.database,
            subscriptions: loaded.endpoints.subscriptions(),
            url: self.url,
            cloudflare: client.map_err(|problem| anyhow!(problem))?,
            authorities: loaded.authorities(),
            clock: Arc::new(SystemClock),
            local_webhook: local_url(settings.server.listen, &settings.webhook.path.canonical()),
            local_readiness: local_url(settings.ops.listen, READINESS_PATH),
        })
        .await;
        if self.json {
            print_json(&report)?;
        } else {
            print_report(&report);
        }
        Ok(match report.status {
            CheckStatus::Error => ExitCode::FAILURE,
            CheckStatus::Ok | CheckStatus::Skipped | CheckStatus::Warning => ExitCode::SUCCESS,
        })
    }
}

fn parse_url(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text).ok();
    let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if url.as_ref().is_some_and(is_web) {
        Ok(text.to_owned())
    } else {
        Err("must be a URL such as https://images.example.com/cloudflare-images/api/webhook/")
    }
}

fn local_url(listen: ListenAddress, path: &str) -> Option<LocalUrl> {
    let listen = listen.get();
    let address = local_address(listen);
    let url = format!("http://{address}{path}");
    (listen.port() != 0).then_some(LocalUrl { address, url })
}

/// Prints one line for each check, and one more for what to do.
fn print_report(report: &Report) {
    let names = report.checks.iter().map(|check| check.name.name().len());
    let width = names.max().unwrap_or_default();
    for Check {
        name,
        status,
        found,
        remedy,
    } in &report.checks
    {
        let (status, name) = (status.name(), name.name());
        print_line(&escape_control(&format!(
            "{status:<7}  {name:<width$}  {found}"
        )));
        if let Some(remedy) = remedy {
            print_line(&escape_control(&format!(
                "{:9}{:width$}  -> {remedy}",
                "", ""
            )));
        }
    }
    let (errors, warnings) = (
        report.count(CheckStatus::Error),
        report.count(CheckStatus::Warning),
    );
    print_line(&format!("errors: {errors}, warnings: {warnings}"));
}
