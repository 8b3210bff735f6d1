//! `deliveries list`, `deliveries show`, `deliveries replay`: what other apps were told, for people and for programs.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;
use serde_json::value::RawValue;

use super::output::{escape_control, format_time, print_line, table};
use super::{open_existing_store, parse_time, require_tables};
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::timestamp::Timestamp;
use crate::store::{Attempt, Delivery, DeliveryFilter, Store};

/// How many tries are shown of a delivery.
const MAX_ATTEMPTS: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Deliveries {
    /// List the newest deliveries
    List {
        #[command(flatten)]
        which: Filter,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print a JSON array, without the messages
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its tries and its message
    Show {
        /// Its number
        id: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver again what came to its end, under the same event id
    Replay {
        /// One alone, by its number
        #[arg(conflicts_with_all = ["endpoint", "status", "since"], required_unless_present = "endpoint")]
        id: Option<i64>,
        #[command(flatten)]
        which: Filter,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only those for this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Only those in this state
    #[arg(long, value_parser = DeliveryStatus::ALL.map(DeliveryStatus::name))]
    status: Option<String>,
    /// Only those whose event happened at this time or later, as 2026-01-15T10:30:00Z
    #[arg(long, value_parser = parse_time)]
    since: Option<Timestamp>,
}

impl Filter {
    fn which(self, id: Option<i64>) -> DeliveryFilter {
        DeliveryFilter {
            id,
            endpoint: self.endpoint,
            status: self.status.as_deref().and_then(DeliveryStatus::named),
            since: self.since,
        }
    }
}

impl Deliveries {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let store = open_existing_store(loaded).await?;
        let result = match require_tables(&store).await {
            Ok(()) => self.run_on(&store, loaded).await,
            Err(error) => Err(error),
        };
        store.close().await;
        result.map(|()| ExitCode::SUCCESS)
    }

    async fn run_on(self, store: &Store, loaded: &Loaded) -> anyhow::Result<()> {
        let catalog = &store.delivery_catalog;
        match self {
            Self::List { which, limit, json } => {
                let which = which.which(None);
                list(&catalog.newest_deliveries(&which, limit).await?, json)
            }
            Self::Show { id, json } => {
                let delivery = find(store, id).await?;
                let attempts = catalog.attempts(id, MAX_ATTEMPTS).await?;
                show(&delivery, &attempts, json)
            }
            Self::Replay { id, which } => replay(store, loaded, which.which(id)).await,
        }
    }
}

async fn find(store: &Store, id: i64) -> anyhow::Result<Delivery> {
    store
        .delivery_catalog
        .find_delivery(id)
        .await?
        .with_context(|| {
            format!("there is no delivery {id}; `deliveries list` shows what there is")
        })
}

fn list(deliveries: &[Delivery], json: bool) -> anyhow::Result<()> {
    if json {
        let deliveries: Vec<DeliveryJson> = deliveries.iter().map(DeliveryJson::of).collect();
        print_line(&serde_json::to_string_pretty(&deliveries)?);
        return Ok(());
    }
    if deliveries.is_empty() {
        print_line("no deliveries");
        return Ok(());
    }
    let mut table = table();
    table.set_header([
        "ID", "CREATED", "ENDPOINT", "EVENT", "IMAGE", "STATUS", "TRIES", "CODE", "NEXT", "ERROR",
    ]);
    for delivery in deliveries {
        table.add_row([
            delivery.id.to_string(),
            delivery.created_at.to_string(),
            delivery.endpoint.clone(),
            format!("{} {}", name(&delivery.model), delivery.event),
            escape_control(delivery.image.as_deref().unwrap_or_default()),
            delivery.status.name().to_owned(),
            delivery.attempts.to_string(),
            code(delivery.status_code),
            format_time(delivery.due_at),
            escape_control(&delivery.error),
        ]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

/// The model without its app, which is always the same.
fn name(model: &str) -> &str {
    model.rsplit('.').next().unwrap_or(model)
}

fn code(status_code: Option<i32>) -> String {
    status_code.map_or_else(String::new, |code| code.to_string())
}

fn show(delivery: &Delivery, attempts: &[Attempt], json: bool) -> anyhow::Result<()> {
    if json {
        let shown = ShownJson {
            delivery: DeliveryJson::of(delivery),
            tries: attempts.iter().map(AttemptJson::of).collect(),
            payload: serde_json::from_str(&delivery.payload).ok(),
        };
        print_line(&serde_json::to_string_pretty(&shown)?);
        return Ok(());
    }
    let mut fields = table();
    for (name, value) in [
        ("id", delivery.id.to_string()),
        ("endpoint", delivery.endpoint.clone()),
        ("event_id", delivery.event_id.clone()),
        ("event", delivery.event.clone()),
        ("model", delivery.model.clone()),
        ("image", delivery.image.clone().unwrap_or_default()),
        ("status", delivery.status.name().to_owned()),
        ("status_code", code(delivery.status_code)),
        ("error", delivery.error.clone()),
        ("attempts", delivery.attempts.to_string()),
        ("due_at", format_time(delivery.due_at)),
        ("created_at", delivery.created_at.to_string()),
        ("completed_at", format_time(delivery.completed_at)),
        ("payload", delivery.payload.clone()),
    ] {
        fields.add_row([name, &escape_control(&value)]);
    }
    print_line(&fields.trim_fmt());
    if attempts.is_empty() {
        return Ok(());
    }
    let mut tries = table();
    tries.set_header(["TRY", "STARTED", "MS", "CODE", "ERROR"]);
    for attempt in attempts {
        tries.add_row([
            attempt.number.to_string(),
            attempt.started_at.to_string(),
            attempt.duration_ms.to_string(),
            code(attempt.status_code),
            escape_control(&attempt.error),
        ]);
    }
    print_line(&format!("\n{}", tries.trim_fmt()));
    Ok(())
}

async fn replay(store: &Store, loaded: &Loaded, which: DeliveryFilter) -> anyhow::Result<()> {
    if which.id.is_none() && which.status.is_none() && which.since.is_none() {
        bail!("say which: --status gave_up, or --since with a time, or both");
    }
    let endpoint = match which.id {
        Some(id) => find(store, id).await?.endpoint,
        None => which.endpoint.clone().unwrap_or_default(),
    };
    if !loaded.settings.relay.names().any(|name| name == endpoint) {
        bail!(
            "no endpoint is called {:?} in the settings, so that nobody would deliver it; `endpoints list` shows which there are",
            escape_control(&endpoint)
        );
    }
    let replayed = store
        .delivery_catalog
        .replay(&which, SystemClock.now())
        .await?;
    match (which.id, replayed) {
        (Some(id), 0) => {
            bail!("the delivery {id} has not come to its end: it waits or is worked on")
        }
        (_, 1) => print_line("1 delivery is due again"),
        (_, replayed) => print_line(&format!("{replayed} deliveries are due again")),
    }
    Ok(())
}

/// A delivery for programs, under the names of its columns.
#[derive(Serialize)]
struct DeliveryJson<'a> {
    id: i64,
    endpoint: &'a str,
    event_id: &'a str,
    event: &'a str,
    model: &'a str,
    image: Option<&'a str>,
    status: &'a str,
    status_code: Option<i32>,
    error: &'a str,
    attempts: i32,
    due_at: Option<String>,
    created_at: String,
    completed_at: Option<String>,
}

impl<'a> DeliveryJson<'a> {
    fn of(delivery: &'a Delivery) -> Self {
        Self {
            id: delivery.id,
            endpoint: &delivery.endpoint,
            event_id: &delivery.event_id,
            event: &delivery.event,
            model: &delivery.model,
            image: delivery.image.as_deref(),
            status: delivery.status.name(),
            status_code: delivery.status_code,
            error: &delivery.error,
            attempts: delivery.attempts,
            due_at: delivery.due_at.map(|time| time.to_string()),
            created_at: delivery.created_at.to_string(),
            completed_at: delivery.completed_at.map(|time| time.to_string()),
        }
    }
}

#[derive(Serialize)]
struct ShownJson<'a> {
    #[serde(flatten)]
    delivery: DeliveryJson<'a>,
    tries: Vec<AttemptJson<'a>>,
    payload: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct AttemptJson<'a> {
    number: i32,
    started_at: String,
    duration_ms: i64,
    status_code: Option<i32>,
    error: &'a str,
}

impl<'a> AttemptJson<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: attempt.started_at.to_string(),
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: &attempt.error,
        }
    }
}
