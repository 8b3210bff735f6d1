//! `rejections list`, `rejections show`, `rejections reprocess`: what was not applied, for people and for programs.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{escape_control, format_time, print_line, table};
use super::{open_existing_store, parse_time, require_tables};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::domain::outcome::RejectionReason;
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;
use crate::receiver::{Parking, Reprocessed};
use crate::store::{Rejection, RejectionFilter, Store};
use crate::telemetry::chain;

/// How many are read at once while all that match are gone through. Each has up to 64 KiB.
const PAGE: u32 = 100;

/// How many letters of an id or a problem are shown in a list.
const LONGEST_CELL: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Rejections {
    /// List the newest of what was not applied, and how many came without proof
    List {
        #[command(flatten)]
        which: Filter,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Print a JSON array, without the bodies
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its body
    Show {
        /// Its number
        id: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply now what was refused, after a pointer or a row was mended; what is applied already stays as it is
    Reprocess {
        /// One alone, by its number
        #[arg(conflicts_with_all = ["reason", "state", "since"], required_unless_present_any = ["reason", "state", "since"])]
        id: Option<i64>,
        #[command(flatten)]
        which: Filter,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only those whose sender was told this
    #[arg(long, value_parser = RejectionReason::ALL.map(RejectionReason::name))]
    reason: Option<String>,
    /// Only those in this state
    #[arg(long, value_parser = RejectionState::ALL.map(RejectionState::name))]
    state: Option<String>,
    /// Only those that came at this time or later, as 2026-01-15T10:30:00Z
    #[arg(long, value_parser = parse_time)]
    since: Option<Timestamp>,
}

impl Filter {
    fn which(self) -> RejectionFilter {
        RejectionFilter {
            reason: self.reason.as_deref().and_then(RejectionReason::named),
            state: self.state.as_deref().and_then(RejectionState::named),
            since: self.since,
        }
    }
}

impl Rejections {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let store = open_existing_store(loaded).await?;
        let result = match require_tables(&store).await {
            Ok(()) => self.run_on(&store, loaded).await,
            Err(error) => Err(error),
        };
        store.close().await;
        result
    }

    async fn run_on(self, store: &Store, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        match self {
            Self::List { which, limit, json } => {
                let which = which.which();
                let catalog = &store.rejection_catalog;
                list(&catalog.newest_rejections(&which, limit).await?, json)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Show { id, json } => {
                show(&find(store, id).await?, json)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Reprocess { id, which } => {
                let parking = Parking::new(
                    store.rejections.clone(),
                    &loaded.settings.webhook,
                    Arc::new(SystemClock),
                );
                match id {
                    Some(id) => reprocess_one(&parking, &find(store, id).await?).await,
                    None => reprocess_all(&parking, store, &which.which()).await,
                }
            }
        }
    }
}

async fn find(store: &Store, id: i64) -> anyhow::Result<Rejection> {
    store
        .rejection_catalog
        .find_rejection(id)
        .await?
        .with_context(|| {
            format!("there is no rejection {id}; `rejections list` shows what there is")
        })
}

fn list(rejections: &[Rejection], json: bool) -> anyhow::Result<()> {
    if json {
        let rejections: Vec<RejectionJson> = rejections
            .iter()
            .map(|one| RejectionJson::of(one, false))
            .collect();
        print_line(&serde_json::to_string_pretty(&rejections)?);
        return Ok(());
    }
    if rejections.is_empty() {
        print_line("no rejections (who came without proof is counted when the minute is over)");
        return Ok(());
    }
    let mut table = table();
    table.set_header([
        "ID", "RECEIVED", "STATUS", "REASON", "STATE", "COUNT", "FROM", "IMAGE", "ABOUT",
    ]);
    for rejection in rejections {
        table.add_row([
            rejection.id.to_string(),
            rejection.received_at.to_string(),
            rejection.status.to_string(),
            rejection.reason.clone(),
            rejection.state.name().to_owned(),
            rejection.count.to_string(),
            rejection.origin.client_address.clone(),
            shortened(rejection.cloudflare_id.as_deref().unwrap_or_default()),
            shortened(&about(rejection)),
        ]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

/// Returns the text of the column ABOUT: the problem, the outcome, or the scheme that was tried.
fn about(rejection: &Rejection) -> String {
    let scheme = &rejection.origin.scheme;
    match rejection.state {
        RejectionState::Counted if scheme.is_empty() => String::new(),
        RejectionState::Counted => format!("with {scheme}"),
        RejectionState::Applied => rejection.outcome.clone(),
        RejectionState::Kept | RejectionState::Parked | RejectionState::Failed => {
            rejection.problem.clone()
        }
    }
}

/// As much as a line has room for; `show` and `--json` have the rest.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST_CELL).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    escape_control(&short)
}

fn show(rejection: &Rejection, json: bool) -> anyhow::Result<()> {
    if json {
        print_line(&serde_json::to_string_pretty(&RejectionJson::of(
            rejection, true,
        ))?);
        return Ok(());
    }
    let mut table = table();
    for (name, value) in [
        ("id", rejection.id.to_string()),
        ("received_at", rejection.received_at.to_string()),
        ("status", rejection.status.to_string()),
        ("reason", rejection.reason.clone()),
        ("problem", rejection.problem.clone()),
        ("state", rejection.state.name().to_owned()),
        ("settled_at", format_time(rejection.settled_at)),
        ("outcome", rejection.outcome.clone()),
        (
            "cloudflare_id",
            rejection.cloudflare_id.clone().unwrap_or_default(),
        ),
        ("scheme", rejection.origin.scheme.clone()),
        ("client_address", rejection.origin.client_address.clone()),
        ("request_id", rejection.origin.request_id.clone()),
        ("count", rejection.count.to_string()),
        ("body_bytes", rejection.body_bytes.to_string()),
        ("body", body(rejection).unwrap_or_default()),
    ] {
        table.add_row([name, &escape_control(&value)]);
    }
    print_line(&table.trim_fmt());
    Ok(())
}

/// The body as text; what is no text in it, replaced.
fn body(rejection: &Rejection) -> Option<String> {
    let body = rejection.body.as_ref()?;
    Some(String::from_utf8_lossy(body.as_bytes()).into_owned())
}

async fn reprocess_one(parking: &Parking, rejection: &Rejection) -> anyhow::Result<ExitCode> {
    if rejection.body.is_none() {
        bail!(
            "of the rejection {} no body was kept: its sender was not proved",
            rejection.id
        );
    }
    let reprocessed = parking.reprocess(rejection).await?;
    print_line(&told(rejection.id, &reprocessed));
    Ok(match reprocessed {
        Reprocessed::Refused(_) => ExitCode::FAILURE,
        Reprocessed::Recorded(_) | Reprocessed::Parked(_) | Reprocessed::AlreadyApplied => {
            ExitCode::SUCCESS
        }
    })
}

/// Goes through them in the order in which they came. One that fails does not keep the others from being tried.
async fn reprocess_all(
    parking: &Parking,
    store: &Store,
    which: &RejectionFilter,
) -> anyhow::Result<ExitCode> {
    let (mut after, mut tried, mut refused) = (0, 0, 0);
    loop {
        let page = store
            .rejection_catalog
            .unapplied_rejections(which, after, PAGE)
            .await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for rejection in &page {
            tried += 1;
            match parking.reprocess(rejection).await {
                Ok(reprocessed) => {
                    refused += usize::from(matches!(reprocessed, Reprocessed::Refused(_)));
                    print_line(&told(rejection.id, &reprocessed));
                }
                Err(error) if error.is_systemic() => return Err(error.into()),
                Err(error) => {
                    refused += 1;
                    let why = chain(&error);
                    print_line(&format!(
                        "{}: not applied: {}",
                        rejection.id,
                        escape_control(&why)
                    ));
                }
            }
        }
    }
    print_line(&format!("{tried} tried, {refused} of them not applied"));
    Ok(ExitCode::from(u8::from(refused > 0)))
}

fn told(id: i64, reprocessed: &Reprocessed) -> String {
    match reprocessed {
        Reprocessed::Recorded(recorded) => format!("{id}: {}", recorded.name()),
        Reprocessed::Parked(image) => {
            format!(
                "{id}: parked until {} has a row",
                escape_control(image.as_str())
            )
        }
        Reprocessed::Refused(problem) => {
            format!("{id}: refused still: {}", escape_control(problem))
        }
        Reprocessed::AlreadyApplied => format!("{id}: applied already"),
    }
}

/// A rejection for programs, under the names of its columns.
#[derive(Serialize)]
struct RejectionJson<'a> {
    id: i64,
    received_at: String,
    status: i32,
    reason: &'a str,
    problem: &'a str,
    state: &'a str,
    settled_at: Option<String>,
    outcome: &'a str,
    cloudflare_id: Option<&'a str>,
    scheme: &'a str,
    client_address: &'a str,
    request_id: &'a str,
    count: i64,
    body_bytes: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

impl<'a> RejectionJson<'a> {
    fn of(rejection: &'a Rejection, with_body: bool) -> Self {
        Self {
            id: rejection.id,
            received_at: rejection.received_at.to_string(),
            status: rejection.status,
            reason: &rejection.reason,
            problem: &rejection.problem,
            state: rejection.state.name(),
            settled_at: rejection.settled_at.map(|time| time.to_string()),
            outcome: &rejection.outcome,
            cloudflare_id: rejection.cloudflare_id.as_deref(),
            scheme: &rejection.origin.scheme,
            client_address: &rejection.origin.client_address,
            request_id: &rejection.origin.request_id,
            count: rejection.count,
            body_bytes: rejection.body_bytes,
            body: with_body.then(|| body(rejection)).flatten(),
        }
    }
}
