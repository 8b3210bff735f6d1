//! `deliveries list`, `deliveries show`, `deliveries replay`, `deliveries move`, `deliveries delete`.

use std::process::ExitCode;

use clap::Subcommand;

use super::arguments::parse_time;
use super::database::{OpenMode, with_store};
use super::output::{fields, print_fields, print_json, print_line, print_table};
use crate::application::deliveries::{self, AttemptView, DeliveryDetails, DeliveryView, Selection};
use crate::application::{ActionError, Context};
use crate::config::Loaded;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::timestamp::Timestamp;
use crate::store::{Changed, DeliveryFilter};

/// The subcommands of `deliveries`.
#[derive(Debug, Subcommand)]
pub(super) enum Deliveries {
    /// List the newest deliveries
    List {
        #[command(flatten)]
        filter: Filter,
        /// Maximum number of deliveries, 1 to 100000
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// JSON array instead of a table, without payloads
        #[arg(long)]
        json: bool,
    },
    /// Show a delivery with its attempts and its payload
    Show {
        /// Id of the delivery
        id: i64,
        /// JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Send deliveries again with the same event id: one by its id, or all of --endpoint with --status or --since
    Replay {
        /// Id of a single delivery, instead of the other options
        #[arg(conflicts_with_all = ["endpoint", "status", "since"], required_unless_present = "endpoint")]
        id: Option<i64>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Move waiting deliveries to another endpoint, for example after their endpoint left the configuration
    Move {
        /// Name of the endpoint that has the deliveries
        #[arg(long)]
        from: String,
        /// Name of the configured endpoint that receives them
        #[arg(long)]
        to: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Delete waiting deliveries, for example after their endpoint left the configuration
    Delete {
        /// Name of the endpoint that has the deliveries
        #[arg(long)]
        endpoint: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ChangeOptions {
    /// Include failed deliveries
    #[arg(long)]
    with_failed: bool,
    /// Allow an endpoint that is in the configuration
    #[arg(long)]
    yes: bool,
}

impl ChangeOptions {
    fn of(self, endpoint: String) -> Selection {
        Selection {
            endpoint,
            with_failed: self.with_failed,
            allows_configured: self.yes,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Name of the endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Status of the deliveries
    #[arg(long, value_parser = DeliveryStatus::ALL.map(DeliveryStatus::name))]
    status: Option<String>,
    /// Earliest time of the event, such as 2026-01-15T10:30:00Z [default: no limit]
    #[arg(long, value_parser = parse_time)]
    since: Option<Timestamp>,
}

impl From<Filter> for DeliveryFilter {
    fn from(filter: Filter) -> Self {
        Self {
            id: None,
            endpoint: filter.endpoint,
            status: filter.status.as_deref().and_then(DeliveryStatus::from_name),
            since: filter.since,
        }
    }
}

impl Deliveries {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        with_store(loaded, OpenMode::Existing, async |context| {
            self.act(context).await
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }

    async fn act(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::List {
                filter,
                limit,
                json,
            } => {
                let deliveries = deliveries::list(context, &filter.into(), limit).await?;
                if json {
                    return print_json(&deliveries);
                }
                print_list(deliveries);
                Ok(())
            }
            Self::Show { id, json } => {
                let details = deliveries::show(context, id).await?;
                if json {
                    return print_json(&details);
                }
                print_details(details)
            }
            Self::Replay { id, filter } => {
                let filter = DeliveryFilter {
                    id,
                    ..filter.into()
                };
                let replayed = deliveries::replay(context, &filter).await?;
                Ok(print_changed(replayed, "pending again")?)
            }
            Self::Move { from, to, options } => {
                let moved = deliveries::move_to(context, &options.of(from), &to).await?;
                Ok(print_changed(moved, "moved")?)
            }
            Self::Delete { endpoint, options } => {
                let deleted = deliveries::delete(context, &options.of(endpoint)).await?;
                Ok(print_changed(deleted, "deleted")?)
            }
        }
    }
}

/// Prints the number of changed deliveries. Fails if the database suppressed a change.
fn print_changed(numbers: Changed, state: &str) -> Result<(), ActionError> {
    match numbers.changed {
        1 => print_line(&format!("1 delivery is {state}")),
        count => print_line(&format!("{count} deliveries are {state}")),
    }
    match numbers.suppressed {
        0 => Ok(()),
        suppressed => Err(ActionError::DeliveriesSuppressed(suppressed)),
    }
}

fn print_list(deliveries: Vec<DeliveryView>) {
    if deliveries.is_empty() {
        return print_line("no deliveries");
    }
    let rows = deliveries.into_iter().map(|delivery| {
        [
            delivery.id.to_string(),
            delivery.created_at,
            delivery.endpoint,
            format!("{} {}", short_model(&delivery.model), delivery.event),
            delivery.image.unwrap_or_default(),
            delivery.status.to_owned(),
            delivery.attempts.to_string(),
            format_code(delivery.status_code),
            delivery.due_at.unwrap_or_default(),
            delivery.error,
        ]
    });
    let header = [
        "ID", "CREATED", "ENDPOINT", "EVENT", "IMAGE", "STATUS", "ATTEMPTS", "CODE", "DUE", "ERROR",
    ];
    print_table(header, rows);
}

/// Returns a model's label without its app. All models have the same app.
fn short_model(label: &str) -> &str {
    label.rsplit('.').next().unwrap_or(label)
}

fn format_code(status_code: Option<i32>) -> String {
    status_code.map_or_else(String::new, |code| code.to_string())
}

fn print_details(details: DeliveryDetails) -> anyhow::Result<()> {
    let mut fields = fields(&details.delivery)?;
    fields.push(("payload".to_owned(), details.payload.get().to_owned()));
    print_fields(fields);
    if !details.attempts.is_empty() {
        print_line("");
        print_attempts(details.attempts);
    }
    Ok(())
}

fn print_attempts(attempts: Vec<AttemptView>) {
    let rows = attempts.into_iter().map(|attempt| {
        [
            attempt.number.to_string(),
            attempt.started_at,
            attempt.duration_ms.to_string(),
            format_code(attempt.status_code),
            attempt.error,
        ]
    });
    print_table(["ATTEMPT", "STARTED", "DURATION MS", "CODE", "ERROR"], rows);
}
