//! The command line. The file of a command has its options, calls actions of
//! [`application`](crate::application) and prints the results. This file has the names and the exit codes.

mod arguments;
mod check_config;
mod cloudflare;
mod database;
mod deliveries;
mod doctor;
mod endpoints;
mod healthcheck;
mod http;
mod image_files;
mod images;
mod migrate;
mod output;
mod progress;
mod reconcile;
mod rejections;
mod retention;
mod send;
mod serve;
mod shell;
mod upload_url;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, ConfigError, ConfigWarning, Environment};
use crate::relay::payload::jq::run_worker;
use crate::telemetry::{self, chain};

/// The exit code for a wrong command line or configuration. clap uses the same code.
const EXIT_USAGE: u8 = 2;

/// Receives Cloudflare Images webhooks, authenticates the sender, and writes each image's status into tables that any app can
/// query.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(
    after_help = "Settings come from config/default.toml (built in), from config/PROFILE.toml or --config, and from the environment. \
    Later sources win. `check-config` prints all settings.\n\nExit codes: 0 success, 1 failure, 2 wrong command line or configuration, \
    3 forced shutdown."
)]
pub struct Cli {
    /// TOML file of settings, read instead of config/PROFILE.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive webhooks until SIGTERM or SIGINT (the default command)
    Serve,
    /// Create the tables, or update them to this version
    Migrate,
    /// Register, list, show, delete, import and export images
    #[command(subcommand)]
    Images(images::Images),
    /// Create an upload URL at Cloudflare, and register its image
    UploadUrl(upload_url::UploadUrl),
    /// Look up images at Cloudflare that still wait for their upload, and record what became of them
    Reconcile(reconcile::Reconcile),
    /// List, show and reprocess rejected webhooks
    #[command(subcommand)]
    Rejections(rejections::Rejections),
    /// List, show and replay deliveries to endpoints
    #[command(subcommand)]
    Deliveries(deliveries::Deliveries),
    /// List, test, preview, pause and resume endpoints
    #[command(subcommand)]
    Endpoints(endpoints::Endpoints),
    /// Delete old rows
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Show the webhook destination and the notification policy at Cloudflare
    #[command(subcommand)]
    Cloudflare(cloudflare::Cloudflare),
    /// Send a sample webhook to a running service
    Send(send::Send),
    /// Verify the signature of a request, and explain a failure
    Verify(verify::Verify),
    /// Check the installation, and print what to do
    Doctor(doctor::Doctor),
    /// Print every setting with its value and source; secrets are redacted
    CheckConfig,
    /// Check whether a running service is ready
    Healthcheck,
    /// Print a script that completes the arguments of this program in a shell
    Completions(shell::Completions),
    /// Write a man page for each command
    ManPages(shell::ManPages),
    /// Run the jq programs of one endpoint on messages from the standard input
    #[command(hide = true)]
    JqWorker,
}

impl Command {
    /// Returns whether the command prints this warning. `serve` logs all warnings.
    fn prints(&self, warning: &ConfigWarning) -> bool {
        match self {
            Self::Serve => false,
            Self::CheckConfig => true,
            _ => matches!(warning, ConfigWarning::RenamedKey(_)),
        }
    }
}

impl Cli {
    /// Runs the command on a runtime of its own.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Some(Command::JqWorker) = self.command {
            // A worker needs neither the runtime nor the configuration.
            return run_worker();
        }
        if let Some(described) = self.describe_itself() {
            let code = described.unwrap_or_else(|error| failed(error.as_ref(), 1));
            return checked_output(code);
        }
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error, 1),
        };
        let code = runtime.block_on(self.run_command());
        // A forced shutdown leaves tasks behind, and waiting for them could take for ever.
        runtime.shutdown_background();
        let code = checked_output(code);
        telemetry::flush();
        code
    }

    /// Runs the command if it only describes the command line, without a configuration.
    fn describe_itself(&self) -> Option<anyhow::Result<ExitCode>> {
        match &self.command {
            Some(Command::Completions(completions)) => Some(completions.print(Self::command())),
            Some(Command::ManPages(pages)) => Some(pages.write(Self::command())),
            _ => None,
        }
    }

    async fn run_command(self) -> ExitCode {
        let loaded = match config::load(&Environment::of_process(), self.config.as_deref()) {
            Ok(loaded) => loaded,
            Err(error) => return failed(&error, EXIT_USAGE),
        };
        let command = self.command.unwrap_or(Command::Serve);
        for warning in loaded.warnings() {
            if command.prints(warning) {
                telemetry::print_line(&format!("warning: {warning}"));
            }
        }
        let result = match command {
            Command::Serve => serve::run(&loaded).await,
            Command::Migrate => migrate::run(&loaded).await,
            Command::Images(images) => images.run(&loaded).await,
            Command::UploadUrl(upload_url) => upload_url.run(&loaded).await,
            Command::Reconcile(reconcile) => reconcile.run(&loaded).await,
            Command::Rejections(rejections) => rejections.run(&loaded).await,
            Command::Deliveries(deliveries) => deliveries.run(&loaded).await,
            Command::Endpoints(endpoints) => endpoints.run(&loaded).await,
            Command::Retention(retention) => retention.run(&loaded).await,
            Command::Cloudflare(cloudflare) => cloudflare.run(&loaded).await,
            Command::Send(send) => send.run(&loaded).await,
            Command::Verify(verify) => verify.run(&loaded),
            Command::Doctor(doctor) => doctor.run(&loaded).await,
            Command::CheckConfig => check_config::run(&loaded).await,
            Command::Healthcheck => healthcheck::run(&loaded).await,
            Command::Completions(completions) => completions.print(Self::command()),
            Command::ManPages(pages) => pages.write(Self::command()),
            Command::JqWorker => return run_worker(),
        };
        result.unwrap_or_else(|error| {
            let code = if error.is::<ConfigError>() {
                EXIT_USAGE
            } else {
                1
            };
            failed(error.as_ref(), code)
        })
    }
}

/// The error if a command could not print its result.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError(#[source] &'static std::io::Error);

/// Returns the exit code of a command, or a failure if its output is incomplete.
fn checked_output(code: ExitCode) -> ExitCode {
    match output::failed_write() {
        Some(error) => failed(&OutputError(error), 1),
        None => code,
    }
}

/// Prints an error and its causes on one line.
fn failed(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    telemetry::print_line(&format!("error: {}", chain(error)));
    ExitCode::from(code)
}
