//! `reconcile`.

use std::process::ExitCode;

use clap::Args;

use super::arguments::parse_time;
use super::cloudflare::client;
use super::database::{OpenMode, with_store};
use super::images::parse_id;
use super::output::print_line;
use super::progress::Progress as ProgressLine;
use crate::application::Context;
use crate::application::reconcile::{
    FailedImage, Found, Progress, Summary, preview, reconcile, reconcile_one,
};
use crate::cloudflare::{ApiError, Client};
use crate::config::Loaded;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;

/// The options of `reconcile`.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    /// Look images up, print what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Earliest creation of an image, such as 2026-01-15T10:30:00Z [default: no limit]
    #[arg(long, value_parser = parse_time, conflicts_with = "id")]
    since: Option<Timestamp>,
    /// One image, of any age and status
    #[arg(long)]
    id: Option<String>,
}

impl Reconcile {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let client = client(loaded)?;
        let id = self.id.as_deref().map(parse_id).transpose()?;
        let (dry_run, since) = (self.dry_run, self.since);
        let failed = with_store(loaded, OpenMode::Existing, async |context| match &id {
            Some(id) => one(context, client, id, dry_run).await,
            None if dry_run => preview_all(context, client, since).await,
            None => all(context, client, since).await,
        })
        .await?;
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// Looks up one image. Returns whether it failed.
async fn one(
    context: &Context,
    client: Client,
    id: &CloudflareId,
    is_preview: bool,
) -> anyhow::Result<bool> {
    let found = reconcile_one(context, client, id, is_preview).await?;
    print_found(id, found, is_preview);
    Ok(found == Found::Failed)
}

fn print_found(id: &CloudflareId, found: Found, is_preview: bool) {
    let text = match (found, is_preview) {
        (Found::Settled(status), true) => format!("would become {status}"),
        (Found::Settled(status), false) => format!("is {status}"),
        (Found::Waits, _) => "still waits for its upload".to_owned(),
        (Found::SettledMeanwhile, _) => "unchanged: the row has this or a newer status".to_owned(),
        (Found::Failed, _) => "cannot be stored".to_owned(),
    };
    print_line(&format!("{id}: {text}"));
}

async fn preview_all(
    context: &Context,
    client: Client,
    since: Option<Timestamp>,
) -> anyhow::Result<bool> {
    let mut print = |id: &CloudflareId, found: Result<Found, &ApiError>| match found {
        Ok(found) => print_found(id, found, true),
        Err(error) => print_line(&format!("{id}: {error}")),
    };
    let total = preview(context, client, since, &mut print).await?;
    print_summary(total, true);
    Ok(total.failed > 0)
}

async fn all(context: &Context, client: Client, since: Option<Timestamp>) -> anyhow::Result<bool> {
    let mut line = ProgressLine::new(None);
    let total = reconcile(context, client, since, &mut |progress| {
        show(&mut line, progress);
    })
    .await;
    line.clear();
    let total = total?;
    print_summary(total, false);
    Ok(total.failed > 0)
}

fn print_summary(total: Summary, is_preview: bool) {
    let lookups = total.lookups();
    if lookups == 0 {
        print_line("no image waits for its upload for long enough.");
        return;
    }
    let verb = if is_preview { "would become" } else { "became" };
    let Summary {
        uploaded,
        expired,
        settled_meanwhile,
        waiting,
        failed,
    } = total;
    print_line(&format!(
        "looked up {lookups}: {uploaded} {verb} uploaded, {expired} {verb} expired, {waiting} still wait, {settled_meanwhile} were settled by a webhook meanwhile, {failed} failed."
    ));
}

fn show(line: &mut ProgressLine, progress: Progress<'_>) {
    match progress {
        Progress::Failed(FailedImage { id, error }) => line.print_line(&format!("{id}: {error}")),
        Progress::LookedUp(total) => {
            let Summary {
                uploaded, expired, ..
            } = total;
            let lookups = total.lookups();
            let text = format!("looked up {lookups}: {uploaded} uploaded, {expired} expired");
            line.show(lookups, &text);
        }
        Progress::Waiting(wait) => {
            let seconds = wait.as_secs().max(1);
            let text = format!("too many calls to Cloudflare; continuing in {seconds} seconds");
            line.show(0, &text);
        }
    }
}
