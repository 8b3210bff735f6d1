//! The check of the public URL: a test message, sent and authenticated as Cloudflare does it.

use serde_json::{Value, json};
use url::Url;

use super::check::{Check, CheckName};
use super::installation::Installation;
use super::limits::Limits;
use super::listeners::PROBLEM;
use super::shown_url::shown_url;
use crate::outbound::{ProbeAnswer, ProbeError, Prober, is_loopback};
use crate::random::uuid_v4;
use crate::signing::{Message, Scheme};
use crate::telemetry::chain;

/// The text of the message that Cloudflare sends to test a webhook.
pub(crate) const TEST_MESSAGE: &str = "Hello World! This is a test message sent from https://cloudflare.com. If you can see this, your \
    webhook is configured properly.";

const NAME: CheckName = CheckName::PublicUrl;

/// Sends the message to this URL, which is the option of the command or the URL at Cloudflare.
pub(super) async fn check(
    installation: &Installation<'_>,
    url: Option<&str>,
    limits: Limits,
) -> Check {
    let Some(text) = url else {
        return Check::skipped(NAME, "the public URL is not known. Use --url.");
    };
    let shown = shown_url(text);
    let Some(url) = Url::parse(text).ok().filter(Url::has_host) else {
        return Check::error(NAME, format!("{shown} is no URL"), "Use --url.");
    };
    let is_https = url.scheme() == "https";
    if !is_https && !is_loopback(&url) {
        return Check::error(
            NAME,
            format!("{shown} is not HTTPS, so others can read the secret; no message was sent"),
            "Use a URL that begins with https://, also at Cloudflare.",
        );
    }
    match send(installation, &url, limits).await {
        Ok(answer) => {
            let check = judge(&shown, &answer);
            if check.is_ok() && !is_https {
                return Check::warning(
                    NAME,
                    format!("{shown} accepts a test message, and leads to this machine"),
                    "Cloudflare needs a public URL with HTTPS. Use it with --url.",
                );
            }
            check
        }
        Err(failure) => {
            // Then every certificate looks wrong, also a right one.
            let missing = installation.authorities.missing();
            match (&failure, missing) {
                (Failure::NoAnswer(ProbeError::Certificate(_)), Some(reason)) => {
                    let found = format!("this machine has no certificate authorities: {reason}");
                    Check::skipped(NAME, found)
                }
                _ => judge_failure(&shown, failure),
            }
        }
    }
}

/// The reason why there is no answer.
enum Failure {
    /// The message was not sent, for this reason. The remedy follows.
    Unsent(String, &'static str),
    NoAnswer(ProbeError),
}

async fn send(
    installation: &Installation<'_>,
    url: &Url,
    limits: Limits,
) -> Result<ProbeAnswer, Failure> {
    let body = json!({"text": TEST_MESSAGE}).to_string();
    let id = format!("msg_{}", uuid_v4().simple());
    let message = Message {
        id: &id,
        sent_at: installation.clock.now(),
        body: body.as_bytes(),
    };
    let secret = installation.webhook.secrets().next();
    let headers = secret.map(|secret| Scheme::CfWebhookAuth.sign(&secret, &message));
    let headers = headers.transpose().map_err(|error| {
        Failure::Unsent(format!("the secret {error}"), "Choose another secret.")
    })?;
    let prober = Prober::new(Some(installation.authorities))
        .map_err(|problem| Failure::Unsent(problem, "Check tls.ca_file."))?;
    let headers = headers.unwrap_or_default();
    let sending = prober.post(url.as_str(), headers, body, limits.remaining());
    sending.await.map_err(Failure::NoAnswer)
}

fn judge_failure(shown: &str, failure: Failure) -> Check {
    let (problem, remedy) = match failure {
        Failure::Unsent(problem, remedy) => (problem, remedy),
        Failure::NoAnswer(error) => {
            let remedy = match &error {
                ProbeError::Certificate(_) => {
                    "Renew the certificate, or complete its chain. Cloudflare needs a certificate of a public authority."
                }
                ProbeError::TimedOut(_) | ProbeError::NoConnection(_) => {
                    "Check the name, the proxy and the firewall."
                }
                ProbeError::Broken(_) => {
                    "Look into the log of the proxy. If webhook.allowed_addresses is set, it may not have this machine."
                }
            };
            (chain(&error), remedy)
        }
    };
    Check::error(NAME, format!("{shown}: {problem}"), remedy)
}

fn judge(shown: &str, answer: &ProbeAnswer) -> Check {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let problem = body["type"].as_str();
    let problem = problem.and_then(|problem| problem.strip_prefix(PROBLEM));
    let error = |found: String, remedy| Check::error(NAME, format!("{shown} {found}"), remedy);
    match (answer.status, problem) {
        (200, _) if body["outcome"] == "test" => {
            Check::ok(NAME, format!("{shown} accepts a test message"))
        }
        (401, Some(_)) => error(
            "refuses the first secret of webhook.secrets (401)".to_owned(),
            "Give the service the same secrets, and restart it.",
        ),
        (403, Some("address-not-allowed")) => Check::warning(
            NAME,
            format!(
                "{shown} refuses the address of this machine (403), so the secret was not tested"
            ),
            "That is right if only Cloudflare may send. Add this machine to webhook.allowed_addresses to test the secret.",
        ),
        (404, Some("no-such-route")) => error(
            "leads to the service, and its path is not webhook.path (404)".to_owned(),
            "Change webhook.path, or the path of the URL at Cloudflare.",
        ),
        (status, Some(problem)) => error(
            format!("answers {status} {problem}"),
            "Look into the log of the service.",
        ),
        (status @ 300..=399, None) => error(
            format!("answers with a redirect ({status})"),
            "Use the URL to which the redirect leads, also at Cloudflare.",
        ),
        (status, None) => error(
            format!("answers {status}, and the answer is not of this service"),
            "Let the proxy pass the path of the webhook to the service, without a log-in page.",
        ),
    }
}
