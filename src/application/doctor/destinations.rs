//! The checks of the webhook destination and the notification policy at Cloudflare.

use super::check::{Check, CheckName, skipped};
use super::installation::Installation;
use super::shown_url::shown_url;
use crate::application::cloudflare::has_path;
use crate::cloudflare::{Destination, Policy};
use crate::domain::timestamp::Timestamp;

/// The checks of this file.
pub(super) const NAMES: [CheckName; 3] = [
    CheckName::Destination,
    CheckName::Policy,
    CheckName::DestinationFailures,
];

/// The results, and the URL of the destination.
pub(super) struct Judged {
    pub(super) checks: Vec<Check>,
    pub(super) url: Option<String>,
}

pub(super) fn judge(
    installation: &Installation<'_>,
    destinations: &[Destination],
    policies: &[Policy],
) -> Judged {
    let is_ours = |destination: &&Destination| match &installation.url {
        Some(url) => is_same(&destination.url, url),
        None => has_path(&destination.url, &installation.webhook.path),
    };
    let ours: Vec<&Destination> = destinations.iter().filter(is_ours).collect();
    if ours.is_empty() {
        let mut checks = vec![missing(installation, destinations)];
        checks.extend(skipped(
            [CheckName::Policy, CheckName::DestinationFailures],
            "there is no destination",
        ));
        return Judged { checks, url: None };
    }
    let is_selected = |destination: &&&Destination| {
        let policies = policies.iter().filter(|policy| policy.enabled);
        let mut policies = policies.filter(|policy| policy.is_about_images());
        policies.any(|policy| policy.webhooks().contains(&&*destination.id))
    };
    let selected = ours.iter().find(is_selected).copied();
    let shown = selected.unwrap_or(ours[0]);
    let found = format!("{:?} sends to {}", shown.name, shown_url(&shown.url));
    let found = match ours.len() {
        1 => found,
        count => format!("{found}; {} others are like it", count - 1),
    };
    let checks = vec![
        Check::ok(CheckName::Destination, found),
        judge_policy(&ours, policies, selected.is_some()),
        judge_failures(shown),
    ];
    Judged {
        checks,
        url: Some(shown.url.clone()),
    }
}

/// Returns whether two URLs lead to the same webhook. The slash at the end makes no difference.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn missing(installation: &Installation<'_>, destinations: &[Destination]) -> Check {
    let name = CheckName::Destination;
    let Some(url) = &installation.url else {
        let path = installation.webhook.path.canonical();
        return Check::error(
            name,
            format!("no webhook destination has the path {path} (webhook.path)"),
            "Run `cloudflare setup --url URL` with the public URL of the webhook.",
        );
    };
    let mut others = destinations.iter();
    let other = others.find(|other| has_path(&other.url, &installation.webhook.path));
    let found = match other {
        Some(other) => format!(
            "{:?} sends to {} instead of {}",
            other.name,
            shown_url(&other.url),
            shown_url(url)
        ),
        None => format!("no webhook destination has the URL {}", shown_url(url)),
    };
    Check::error(
        name,
        found,
        "Run `cloudflare setup --url URL` with this URL.",
    )
}

fn judge_policy(ours: &[&Destination], policies: &[Policy], is_enabled: bool) -> Check {
    let name = CheckName::Policy;
    if is_enabled {
        return Check::ok(
            name,
            "an enabled policy sends notifications about images to it",
        );
    }
    let points = |policy: &&Policy| {
        let webhooks = policy.webhooks();
        let mut ids = ours.iter().map(|destination| &*destination.id);
        policy.is_about_images() && ids.any(|id| webhooks.contains(&id))
    };
    let remedy = "Run `cloudflare setup --url URL`. It creates or enables the policy.";
    match policies.iter().find(points) {
        Some(disabled) => Check::error(name, format!("{:?} is disabled", disabled.name), remedy),
        None => Check::error(
            name,
            "no policy sends notifications about images to this destination",
            remedy,
        ),
    }
}

fn judge_failures(destination: &Destination) -> Check {
    let name = CheckName::DestinationFailures;
    let time = |text: &Option<String>| {
        let text = text.as_deref()?;
        Timestamp::parse_rfc3339(text).ok()
    };
    let success = time(&destination.last_success);
    match (time(&destination.last_failure), success) {
        (None, None) => Check::ok(name, "Cloudflare reports neither a success nor a failure"),
        (None, Some(success)) => Check::ok(name, format!("the last success was at {success}")),
        (Some(failure), Some(success)) if failure <= success => {
            Check::ok(name, format!("the last success was at {success}"))
        }
        (Some(failure), success) => {
            let before = match success {
                Some(success) => format!("the last success before at {success}"),
                None => "no success before".to_owned(),
            };
            Check::warning(
                name,
                format!("the last webhook failed at {failure}, with {before}"),
                "Look into the log of that time. `reconcile` finds the images of lost webhooks.",
            )
        }
    }
}
