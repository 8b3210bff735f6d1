//! The commands. A command's file has its options, calls actions of [`application`](crate::application)
//! and prints the results. This file has the names and the exit codes.

mod check_config;
mod deliveries;
mod endpoints;
mod healthcheck;
mod http;
mod images;
mod migrate;
mod output;
mod rejections;
mod retention;
mod send;
mod serve;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::application::{ActionError, Context, schema};
use crate::clock::SystemClock;
use crate::config::{self, ConfigError, Environment, Loaded, Settings};
use crate::domain::timestamp::Timestamp;
use crate::store::{DatabaseUrl, Store};
use crate::telemetry::chain;

/// The exit code for a wrong command line or configuration. clap uses the same code.
const EXIT_USAGE: u8 = 2;

/// Receives Cloudflare Images webhooks, proves their sender, and writes each image's status into tables that any app can query.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(
    after_help = "Settings come from config/default.toml (built in), the profile's file or --config, and the environment, in this \
    order. `check-config` shows them all.\n\nExit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 stopped by force."
)]
pub struct Cli {
    /// A TOML file of settings, in the place of config/PROFILE.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive webhooks until SIGTERM or SIGINT (the default)
    Serve,
    /// Bring the tables up to date, and exit
    Migrate,
    /// Register, show and delete images
    #[command(subcommand)]
    Images(images::Images),
    /// Show what was not applied, and apply it after all
    #[command(subcommand)]
    Rejections(rejections::Rejections),
    /// Show what other apps were told, and deliver it again
    #[command(subcommand)]
    Deliveries(deliveries::Deliveries),
    /// Show who is told, and pause them
    #[command(subcommand)]
    Endpoints(endpoints::Endpoints),
    /// Delete what is old
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Make a sample webhook, sign it, and post it to a running service
    Send(send::Send),
    /// Say whether a request's signature holds, and if not, why
    Verify(verify::Verify),
    /// Print the effective settings and where each came from, secrets redacted
    CheckConfig,
    /// Ask a running service whether it is ready, for container probes
    Healthcheck,
}

impl Cli {
    /// Runs the command on a runtime of its own.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error, 1),
        };
        let code = runtime.block_on(self.run_command());
        // A forced stop leaves tasks behind. Waiting for them could take for ever.
        runtime.shutdown_background();
        code
    }

    async fn run_command(self) -> ExitCode {
        let loaded = match config::load(&Environment::of_process(), self.config.as_deref()) {
            Ok(loaded) => loaded,
            Err(error) => return failed(&error, EXIT_USAGE),
        };
        let result = match self.command.unwrap_or(Command::Serve) {
            Command::Serve => serve::run(&loaded).await,
            Command::Migrate => migrate::run(&loaded).await,
            Command::Images(images) => images.run(&loaded).await,
            Command::Rejections(rejections) => rejections.run(&loaded).await,
            Command::Deliveries(deliveries) => deliveries.run(&loaded).await,
            Command::Endpoints(endpoints) => endpoints.run(&loaded).await,
            Command::Retention(retention) => retention.run(&loaded).await,
            Command::Send(send) => send.run(&loaded).await,
            Command::Verify(verify) => verify.run(&loaded),
            Command::CheckConfig => check_config::run(&loaded),
            Command::Healthcheck => healthcheck::run(&loaded).await,
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

/// Prints an error and its causes on one line.
fn failed(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    output::print_error(&format!("error: {}", chain(error)));
    ExitCode::from(code)
}

/// Parses a time on the command line.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|error| error.to_string())
}

/// The state of the database that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// The database exists and its tables are up to date, so that reading never creates a database.
    Existing,
    /// A missing database is created. Its tables are migrated if `database.migrate_on_start` is on,
    /// and must be up to date otherwise.
    Create,
    /// A missing database is created. The command itself migrates the tables.
    Migrate,
}

/// Opens the database, runs an action on it, and closes it in every case.
async fn with_store<T>(
    loaded: &Loaded,
    opening: Opening,
    action: impl AsyncFnOnce(&Context) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let settings = &loaded.settings;
    if opening == Opening::Existing {
        require_database(&settings.database.url)?;
    }
    let unknown_images = settings.webhook.unknown_images();
    let audience = loaded.endpoints.audience().clone();
    let context = Context {
        store: Store::open(&settings.database, unknown_images, audience).await?,
        clock: Arc::new(SystemClock),
        webhook: settings.webhook.clone(),
        endpoints: loaded.endpoints.clone(),
        retention: settings.retention.clone(),
    };
    let result = match prepare_tables(&context, opening, settings).await {
        Ok(()) => action(&context).await,
        Err(error) => Err(error.into()),
    };
    context.store.close().await;
    result
}

fn require_database(url: &DatabaseUrl) -> anyhow::Result<()> {
    match url {
        DatabaseUrl::Sqlite(file) if !file.exists() => anyhow::bail!(
            "there is no database at {} (database.url); `serve` and `migrate` make it",
            file.display()
        ),
        DatabaseUrl::Sqlite(_) | DatabaseUrl::Postgres(_) => Ok(()),
    }
}

async fn prepare_tables(
    context: &Context,
    opening: Opening,
    settings: &Settings,
) -> Result<(), ActionError> {
    match opening {
        Opening::Create if settings.database.migrate_on_start => {
            schema::migrate(context).await.map(drop)
        }
        Opening::Existing | Opening::Create => schema::require_current(context).await,
        Opening::Migrate => Ok(()),
    }
}
