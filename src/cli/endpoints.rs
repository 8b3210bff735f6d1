//! `endpoints list`, `test`, `preview`, `pause`, `resume`: who is told, what, and whether.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{escape_control, format_time, print_line, table};
use super::{open_existing_store, require_tables};
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::relay::{PAUSED_BY_SETTING, Trial};
use crate::setting::read_file;
use crate::store::{EndpointState, Store};

/// What stands in the table when a person paused it.
const PAUSED_BY_A_PERSON: &str = "somebody paused it";

#[derive(Debug, Subcommand)]
pub(super) enum Endpoints {
    /// List the endpoints, those of the settings and those that deliveries wait for
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Send an endpoint a test message now, once, whether or not it is paused
    Test {
        /// Its name
        name: String,
    },
    /// Print what an endpoint would be sent, and send nothing
    Preview {
        /// Its name
        name: String,
        /// A file with an event, as `deliveries show --json` has it under payload; else a sample
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
    },
    /// Deliver nothing to an endpoint until it is resumed; what happens meanwhile waits for it
    Pause {
        /// Its name
        name: String,
    },
    /// Deliver to an endpoint again, what waited first
    Resume {
        /// Its name
        name: String,
    },
}

impl Endpoints {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        match self {
            Self::Test { name } => return test(loaded, &name).await,
            Self::Preview { name, event } => {
                return preview(loaded, &name, event.as_deref()).await;
            }
            Self::List { .. } | Self::Pause { .. } | Self::Resume { .. } => {}
        }
        let store = open_existing_store(loaded).await?;
        let result = match require_tables(&store).await {
            Ok(()) => self.run_on(&store, loaded).await,
            Err(error) => Err(error),
        };
        store.close().await;
        result.map(|()| ExitCode::SUCCESS)
    }

    async fn run_on(self, store: &Store, loaded: &Loaded) -> anyhow::Result<()> {
        match self {
            Self::Test { .. } | Self::Preview { .. } => Ok(()),
            Self::List { json } => list(store, loaded, json).await,
            Self::Pause { name } => {
                require(loaded, &name)?;
                let now = SystemClock.now();
                store.outbox.pause(&name, PAUSED_BY_A_PERSON, now).await?;
                print_line(&format!("{name} is paused"));
                Ok(())
            }
            Self::Resume { name } => {
                require(loaded, &name)?;
                let states = store.delivery_catalog.endpoint_states().await?;
                if states
                    .iter()
                    .any(|state| state.name == name && state.paused_because == PAUSED_BY_SETTING)
                {
                    bail!(
                        "{name} is paused by its settings: set paused = false, and start the service again"
                    );
                }
                if store.outbox.resume(&name, None).await? {
                    print_line(&format!("{name} is told again, what waited first"));
                } else {
                    print_line(&format!("{name} was not paused"));
                }
                Ok(())
            }
        }
    }
}

async fn test(loaded: &Loaded, name: &str) -> anyhow::Result<ExitCode> {
    let trial = trial(loaded, name)?;
    match trial.send(&trial.sample()).await? {
        Ok(answer) => {
            print_line(&format!("{name} took it: {answer}"));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => bail!("{name} did not take it: {error}"),
    }
}

async fn preview(loaded: &Loaded, name: &str, event: Option<&Path>) -> anyhow::Result<ExitCode> {
    let trial = trial(loaded, name)?;
    let event = match event {
        None => trial.sample(),
        Some(path) => {
            let event =
                read_file(path).with_context(|| format!("{} cannot be read", path.display()))?;
            event.trim_end().to_owned()
        }
    };
    let preview = trial.preview(&event).await?;
    for line in preview.head {
        print_line(&line);
    }
    print_line(&format!("\n{}", preview.body));
    Ok(ExitCode::SUCCESS)
}

fn trial(loaded: &Loaded, name: &str) -> anyhow::Result<Trial> {
    require(loaded, name)?;
    Trial::of(&loaded.settings.relay, name, Arc::new(SystemClock))
        .context("the endpoint cannot be used")
}

fn require(loaded: &Loaded, name: &str) -> anyhow::Result<()> {
    if loaded.settings.relay.names().any(|known| known == name) {
        return Ok(());
    }
    bail!(
        "no endpoint is called {:?} in the settings; `endpoints list` shows which there are",
        escape_control(name)
    )
}

async fn list(store: &Store, loaded: &Loaded, json: bool) -> anyhow::Result<()> {
    let states = store.delivery_catalog.endpoint_states().await?;
    let known = states
        .iter()
        .map(|state| (state.name.as_str(), Some(state)));
    let mut endpoints: BTreeMap<&str, Option<&EndpointState>> = known.collect();
    for name in loaded.settings.relay.names() {
        endpoints.entry(name).or_default();
    }
    let endpoints: Vec<EndpointJson> = endpoints
        .into_iter()
        .map(|(name, state)| {
            let is_configured = loaded.settings.relay.names().any(|known| known == name);
            EndpointJson::of(name, is_configured, state)
        })
        .collect();
    if json {
        print_line(&serde_json::to_string_pretty(&endpoints)?);
        return Ok(());
    }
    if endpoints.is_empty() {
        print_line("no endpoints; [[relay.endpoints]] in a file of settings makes one");
        return Ok(());
    }
    let mut table = table();
    table.set_header(["NAME", "STATE", "WAITING", "GAVE UP", "SINCE", "BECAUSE"]);
    for endpoint in endpoints {
        table.add_row([
            escape_control(endpoint.name),
            endpoint.state.to_owned(),
            endpoint.waiting.to_string(),
            endpoint.gave_up.to_string(),
            endpoint.paused_at.unwrap_or_default(),
            escape_control(endpoint.paused_because),
        ]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

#[derive(Serialize)]
struct EndpointJson<'a> {
    name: &'a str,
    /// `active`, `paused`, or `not configured`: nobody delivers what waits for it.
    state: &'static str,
    waiting: i64,
    gave_up: i64,
    paused_at: Option<String>,
    paused_because: &'a str,
}

impl<'a> EndpointJson<'a> {
    fn of(name: &'a str, is_configured: bool, state: Option<&'a EndpointState>) -> Self {
        let paused_at = state.and_then(|state| state.paused_at);
        Self {
            name,
            state: match paused_at {
                _ if !is_configured => "not configured",
                Some(_) => "paused",
                None => "active",
            },
            waiting: state.map_or(0, |state| state.waiting),
            gave_up: state.map_or(0, |state| state.gave_up),
            paused_at: paused_at.map(|time| format_time(Some(time))),
            paused_because: state.map_or("", |state| &state.paused_because),
        }
    }
}
