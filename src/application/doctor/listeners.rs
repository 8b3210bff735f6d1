//! The checks whether the service answers on the configured ports of this machine.

use serde_json::Value;

use super::check::{Check, CheckName, skipped};
use super::installation::{Installation, LocalUrl};
use super::limits::Limits;
use crate::outbound::{ProbeAnswer, ProbeError, Prober};
use crate::telemetry::chain;

/// The start of the types of the service's problems. Its answer to a GET request for its webhook is one.
pub(super) const PROBLEM: &str = "urn:cloudflare-images-webhook:problem:";

const START_IT: &str =
    "Start the service with `serve`. Run this command on its machine, with its configuration.";

const OTHER_PROGRAM: &str = "Stop the other program, or choose another port for the service.";

pub(super) async fn check(installation: &Installation<'_>, limits: Limits) -> Vec<Check> {
    let prober = match Prober::new(None) {
        Ok(prober) => prober,
        Err(problem) => {
            let names = [CheckName::WebhookListener, CheckName::OpsListener];
            return skipped(names, &problem);
        }
    };
    let webhook = check_listener(
        CheckName::WebhookListener,
        installation.local_webhook.as_ref(),
        &prober,
        limits,
        judge_webhook,
    );
    let ops = check_listener(
        CheckName::OpsListener,
        installation.local_readiness.as_ref(),
        &prober,
        limits,
        judge_readiness,
    );
    let (webhook, ops) = tokio::join!(webhook, ops);
    vec![webhook, ops]
}

async fn check_listener(
    name: CheckName,
    local: Option<&LocalUrl>,
    prober: &Prober,
    limits: Limits,
    judge: fn(&str, &ProbeAnswer) -> Check,
) -> Check {
    let Some(LocalUrl { address, url }) = local else {
        return Check::skipped(name, "port 0 stands for a free port, which is not known");
    };
    match prober.get(url, limits.remaining()).await {
        Ok(answer) => judge(address, &answer),
        Err(ProbeError::Broken(_)) => Check::warning(
            name,
            format!("{address} closed the connection without an answer"),
            "If webhook.allowed_addresses is set, that is right: the list does not have this machine. Otherwise look into the log.",
        ),
        Err(error) => Check::error(
            name,
            format!("no service answers on {address}: {}", chain(&error)),
            START_IT,
        ),
    }
}

fn judge_webhook(address: &str, answer: &ProbeAnswer) -> Check {
    let name = CheckName::WebhookListener;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = body["type"].as_str();
    match kind.and_then(|kind| kind.strip_prefix(PROBLEM)) {
        Some("no-such-route") => {
            let found = format!("the service on {address} does not have the path webhook.path");
            return Check::error(name, found, START_IT);
        }
        Some(_) => return Check::ok(name, format!("the service answers on {address}")),
        None => {}
    }
    let found = format!(
        "another program answers on {address}, with status {}",
        answer.status
    );
    Check::error(name, found, OTHER_PROGRAM)
}

fn judge_readiness(address: &str, answer: &ProbeAnswer) -> Check {
    let name = CheckName::OpsListener;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body["status"].as_str() {
        Some("ready") => Check::ok(name, format!("the service is ready on {address}")),
        Some("stopping") => Check::warning(
            name,
            format!("the service on {address} is stopping"),
            START_IT,
        ),
        Some("not-ready") => {
            let problems = ["database", "migrations"].map(|part| &body[part]["problem"]);
            let problem = problems.into_iter().find_map(Value::as_str);
            let problem = problem.unwrap_or("no reason was given");
            Check::error(
                name,
                format!("the service on {address} is not ready: {problem}"),
                "Correct the database of the running service. The service becomes ready by itself.",
            )
        }
        _ => Check::error(
            name,
            format!(
                "another program answers on {address}, with status {}",
                answer.status
            ),
            OTHER_PROGRAM,
        ),
    }
}
