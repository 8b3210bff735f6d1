//! `cloudflare setup`, `cloudflare status`, `cloudflare teardown`.

mod setup;
mod steps;

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};

use super::output::{print_json, print_line, print_table};
use crate::application::cloudflare::{self, DEFAULT_NAME, Status};
use crate::cloudflare::Client;
use crate::config::Loaded;
use steps::print_step;

/// The subcommands of `cloudflare`.
#[derive(Debug, Subcommand)]
pub(super) enum Cloudflare {
    /// Make Cloudflare send webhooks about images to this service
    Setup(setup::Setup),
    /// List the webhook destinations and notification policies that concern this service
    Status {
        /// JSON object instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Delete what `setup` made at Cloudflare
    Teardown(Teardown),
}

/// The options of `cloudflare teardown`.
#[derive(Debug, Args)]
pub(super) struct Teardown {
    /// Public URL of the webhook, exactly as in `setup`
    #[arg(long)]
    url: String,
    /// Name of the destination
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Cloudflare {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let client = client(loaded)?;
        match self {
            Self::Setup(setup) => setup.run(&client, loaded).await?,
            Self::Status { json } => {
                let path = &loaded.settings.webhook.path;
                let status = cloudflare::status(&client, path).await?;
                if json {
                    print_json(&status)?;
                } else {
                    print_status(status);
                }
            }
            Self::Teardown(teardown) => teardown.run(&client).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Teardown {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        let plan = cloudflare::plan_teardown(client, &self.url, &self.name).await?;
        for other in &plan.others {
            print_line(&format!(
                "left the webhook destination {:?}: `setup` makes {:?}. Use --name for another one.",
                other.name, self.name
            ));
        }
        if plan.is_empty() {
            print_line("there is nothing to delete.");
            return Ok(());
        }
        for policy in &plan.policies {
            print_line(&format!(
                "notification policy {:?} ({})",
                policy.name, policy.id
            ));
        }
        for destination in &plan.destinations {
            let (name, id) = (&destination.name, &destination.id);
            print_line(&format!("webhook destination {name:?} ({id})"));
        }
        if !self.yes && !confirm("Delete them at Cloudflare? [y/N]")? {
            bail!("nothing was deleted");
        }
        cloudflare::tear_down(client, plan, &mut |step| print_step(&step, false)).await?;
        Ok(())
    }
}

/// Asks on a terminal. Fails without one.
fn confirm(question: &str) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("this command asks before it deletes, and there is no terminal. Use --yes.");
    }
    print_line(question);
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Creates the client of a command.
pub(super) fn client(loaded: &Loaded) -> anyhow::Result<Client> {
    let settings = &loaded.settings;
    let client = Client::new(&settings.cloudflare, loaded.authorities());
    client.map_err(|problem| anyhow!(problem))?.ok_or_else(|| {
        anyhow!("this command calls Cloudflare's API. Set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN.")
    })
}

fn print_status(status: Status) {
    if status.destinations.is_empty() {
        print_line("no webhook destination has the path of this service (webhook.path).");
    } else {
        let rows = status.destinations.into_iter().map(|destination| {
            let time = |time: Option<String>| time.unwrap_or_else(|| "never".to_owned());
            [
                destination.id,
                destination.name,
                destination.url,
                time(destination.last_success),
                time(destination.last_failure),
            ]
        });
        let header = ["DESTINATION", "NAME", "URL", "LAST SUCCESS", "LAST FAILURE"];
        print_table(header, rows);
    }
    print_line("");
    if status.policies.is_empty() {
        print_line("no notification policy is about images.");
        return;
    }
    let rows = status.policies.into_iter().map(|policy| {
        [
            policy.id,
            policy.name,
            if policy.enabled { "yes" } else { "no" }.to_owned(),
            policy.destinations.join(", "),
        ]
    });
    print_table(["POLICY", "NAME", "ENABLED", "DESTINATIONS"], rows);
}
