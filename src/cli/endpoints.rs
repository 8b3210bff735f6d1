//! `endpoints list`, `endpoints test`, `endpoints preview`, `endpoints pause`, `endpoints resume`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;

use super::database::{OpenMode, with_store};
use super::output::{print_json, print_line, print_table};
use crate::application::Context;
use crate::application::endpoints::{self, EndpointView, Resumed};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::config_types::read_file;

/// The subcommands of `endpoints`.
#[derive(Debug, Subcommand)]
pub(super) enum Endpoints {
    #[command(flatten)]
    Stored(Stored),
    /// Send a test message to an endpoint once, even if it is paused
    Test {
        /// Name of the endpoint
        name: String,
    },
    /// Print the message that an endpoint would receive
    Preview {
        /// Name of the endpoint
        name: String,
        /// JSON file with an event, such as `payload` in `deliveries show --json` [default: a sample event]
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
    },
}

/// The commands that need the database.
#[derive(Debug, Subcommand)]
pub(super) enum Stored {
    /// List the configured endpoints, and others that have deliveries or are paused
    List {
        /// JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Pause an endpoint; its deliveries wait until it is resumed
    Pause {
        /// Name of the endpoint
        name: String,
    },
    /// Resume a paused endpoint
    Resume {
        /// Name of the endpoint
        name: String,
    },
}

impl Endpoints {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        match self {
            Self::Stored(command) => {
                with_store(loaded, OpenMode::Existing, async |context| {
                    command.act(context).await
                })
                .await?;
            }
            Self::Test { name } => {
                loaded.check_programs().await?;
                test(loaded, &name).await?;
            }
            Self::Preview { name, event } => {
                loaded.check_programs().await?;
                preview(loaded, &name, event.as_deref()).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Stored {
    async fn act(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::List { json } => {
                let endpoints = endpoints::list(context).await?;
                if json {
                    return print_json(&endpoints);
                }
                print_list(endpoints);
            }
            Self::Pause { name } => {
                endpoints::pause(context, &name).await?;
                print_line(&format!("{name} is paused"));
            }
            Self::Resume { name } => match endpoints::resume(context, &name).await? {
                Resumed::Resumed => print_line(&format!("{name} is resumed")),
                Resumed::WasNotPaused => print_line(&format!("{name} was not paused")),
            },
        }
        Ok(())
    }
}

async fn test(loaded: &Loaded, name: &str) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let response = endpoints::test(&loaded.endpoints, name, clock).await?;
    print_line(&format!("{name} accepted the message: {response}"));
    Ok(())
}

async fn preview(loaded: &Loaded, name: &str, event: Option<&Path>) -> anyhow::Result<()> {
    let event = event.map(read_event).transpose()?;
    let clock = Arc::new(SystemClock);
    let preview = endpoints::preview(&loaded.endpoints, name, event, clock).await?;
    for line in preview.head {
        print_line(&line);
    }
    print_line(&format!("\n{}", preview.body));
    Ok(())
}

fn read_event(file: &Path) -> anyhow::Result<String> {
    let event = read_file(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(event.trim_end().to_owned())
}

fn print_list(endpoints: Vec<EndpointView>) {
    if endpoints.is_empty() {
        return print_line("no endpoints. Add [[relay.endpoints]] to the configuration.");
    }
    let rows = endpoints.into_iter().map(|endpoint| {
        [
            endpoint.name,
            endpoint.state.to_owned(),
            endpoint.waiting.to_string(),
            endpoint.failed.to_string(),
            endpoint.paused_at.unwrap_or_default(),
            endpoint.pause_reason,
        ]
    });
    print_table(
        [
            "NAME",
            "STATE",
            "WAITING",
            "FAILED",
            "PAUSED AT",
            "PAUSE REASON",
        ],
        rows,
    );
}
