//! `rejections list`, `rejections show`, `rejections reprocess`.

use std::process::ExitCode;

use clap::Subcommand;

use super::arguments::parse_time;
use super::database::{OpenMode, with_store};
use super::output::{escape_control, print_json, print_line, print_table, print_view};
use crate::application::Context;
use crate::application::rejections::{self, RejectionView};
use crate::config::Loaded;
use crate::domain::outcome::RejectionReason;
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;
use crate::receiver::Reprocessed;
use crate::store::{RejectionFilter, StoreError};
use crate::telemetry::chain;

/// The most characters of an id or of the details in a list.
const MAX_CELL_CHARACTERS: usize = 60;

/// The subcommands of `rejections`.
#[derive(Debug, Subcommand)]
pub(super) enum Rejections {
    /// List the newest rejections and the counts of unauthenticated requests
    List {
        #[command(flatten)]
        filter: Filter,
        /// Maximum number of rejections, 1 to 100000
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// JSON array instead of a table, without bodies
        #[arg(long)]
        json: bool,
    },
    /// Show a rejection with its body
    Show {
        /// Id of the rejection
        id: i64,
        /// JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Apply rejected webhooks after you corrected the cause
    Reprocess {
        /// Id of a single rejection, instead of the other options
        #[arg(conflicts_with_all = ["reason", "state", "since"], required_unless_present_any = ["reason", "state", "since"])]
        id: Option<i64>,
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Reason of the rejections [default: all]
    #[arg(long, value_parser = RejectionReason::ALL.map(RejectionReason::name))]
    reason: Option<String>,
    /// State of the rejections [default: all]
    #[arg(long, value_parser = RejectionState::ALL.map(RejectionState::name))]
    state: Option<String>,
    /// Earliest time of receipt, such as 2026-01-15T10:30:00Z [default: no limit]
    #[arg(long, value_parser = parse_time)]
    since: Option<Timestamp>,
}

impl From<Filter> for RejectionFilter {
    fn from(filter: Filter) -> Self {
        Self {
            reason: filter
                .reason
                .as_deref()
                .and_then(RejectionReason::from_name),
            state: filter.state.as_deref().and_then(RejectionState::from_name),
            since: filter.since,
        }
    }
}

impl Rejections {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        with_store(loaded, OpenMode::Existing, async |context| {
            self.act(context).await
        })
        .await
    }

    async fn act(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::List {
                filter,
                limit,
                json,
            } => {
                let rejections = rejections::list(context, &filter.into(), limit).await?;
                if json {
                    print_json(&rejections)?;
                } else {
                    print_list(rejections);
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Show { id, json } => {
                print_view(&rejections::show(context, id).await?, json)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Reprocess { id: Some(id), .. } => {
                let reprocessed = rejections::reprocess(context, id).await?;
                let is_refused = rejections::is_refused(&reprocessed);
                print_result(id, Ok(reprocessed));
                Ok(ExitCode::from(u8::from(is_refused)))
            }
            Self::Reprocess { id: None, filter } => {
                let filter = filter.into();
                let totals = rejections::reprocess_all(context, &filter, print_result).await?;
                print_line(&format!(
                    "{} reprocessed, {} of them not applied",
                    totals.reprocessed, totals.not_applied
                ));
                Ok(ExitCode::from(u8::from(totals.not_applied > 0)))
            }
        }
    }
}

fn print_list(rejections: Vec<RejectionView>) {
    if rejections.is_empty() {
        return print_line("no rejections (refused requests are counted once a minute)");
    }
    let rows = rejections.into_iter().map(|rejection| {
        [
            rejection.id.to_string(),
            rejection.received_at,
            rejection.status.to_string(),
            rejection.reason,
            rejection.state.to_owned(),
            rejection.count.to_string(),
            rejection.client_address,
            shorten(&rejection.cloudflare_id.unwrap_or_default()),
            shorten(&rejection.details),
        ]
    });
    let header = [
        "ID", "RECEIVED", "STATUS", "REASON", "STATE", "COUNT", "CLIENT", "IMAGE", "DETAILS",
    ];
    print_table(header, rows);
}

/// Cuts a text that is too long for a column. `show` and `--json` print the whole text.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_CELL_CHARACTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn print_result(id: i64, result: Result<Reprocessed, StoreError>) {
    let result = match result {
        Ok(Reprocessed::Recorded(outcome, ignored)) if ignored.count() > 0 => {
            format!("{}, ignoring fields: {ignored}", outcome.name())
        }
        Ok(Reprocessed::Recorded(outcome, _)) => outcome.name().to_owned(),
        Ok(Reprocessed::Parked(image)) => format!("parked until {image} has a row"),
        Ok(Reprocessed::Refused(problem)) => format!("refused again: {problem}"),
        Ok(Reprocessed::AlreadyApplied) => "already applied".to_owned(),
        Err(error) => format!("not applied: {}", chain(&error)),
    };
    print_line(&format!("{id}: {}", escape_control(&result)));
}
