//! The checks at Cloudflare: the token, its permissions, the destination, the policy and the clock. All calls only read.

use std::time::Duration;

use super::check::{Check, CheckName, CheckStatus, skipped};
use super::destinations;
use super::installation::Installation;
use super::limits::Limits;
use crate::cloudflare::{ApiError, Client, Destination, ErrorKind, Policy, Token};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::random::uuid_v4;

/// The checks of this file.
const NAMES: [CheckName; 4] = [
    CheckName::ApiToken,
    CheckName::NotificationsPermission,
    CheckName::ImagesPermission,
    CheckName::Clock,
];

/// A token that expires within this time is a warning.
const EXPIRY_NOTICE: Duration = Duration::from_hours(7 * 24);

/// The largest difference between two clocks without a warning. The header of the time has no fraction, and the answer takes a while.
const CLOCK_TOLERANCE_SECS: i64 = 30;

/// The permissions that all commands and the running service need together.
const PERMISSIONS: &str = "Account > Notifications > Edit and Account > Cloudflare Images > Edit";

/// The results, and the URL to which Cloudflare sends webhooks, if it is known.
pub(super) struct AccountChecks {
    pub(super) checks: Vec<Check>,
    pub(super) url: Option<String>,
}

/// The answers to the calls. An error is a text for people.
struct Answers {
    token: Result<Token, Failure>,
    lists: Result<(Vec<Destination>, Vec<Policy>), Failure>,
    image: Result<(), Failure>,
}

/// A failed call.
struct Failure {
    text: String,
    /// Whether the token may not do this.
    is_forbidden: bool,
}

pub(super) async fn check(installation: &Installation<'_>, limits: Limits) -> AccountChecks {
    let Some(client) = &installation.cloudflare else {
        let reason = "no account is set (CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_API_TOKEN)";
        let mut checks = skipped(NAMES, reason);
        checks.extend(skipped(destinations::NAMES, reason));
        return AccountChecks { checks, url: None };
    };
    let answers = call(client, limits).await;
    let now = installation.clock.now();
    let clock = check_clock(client.server_time(), now);
    let token = judge_token(&answers, now);
    let is_useless = token.status == CheckStatus::Error;
    if is_useless && answers.lists.is_err() && answers.image.is_err() {
        let mut checks = vec![token, clock];
        let reason = "the token does not work";
        checks.extend(skipped([NAMES[1], NAMES[2]], reason));
        checks.extend(skipped(destinations::NAMES, reason));
        return AccountChecks { checks, url: None };
    }
    let mut checks = vec![
        token,
        clock,
        judge_permission(
            CheckName::NotificationsPermission,
            answers.lists.as_ref().err(),
            "the token can list destinations and policies",
        ),
        judge_permission(
            CheckName::ImagesPermission,
            answers.image.as_ref().err(),
            "the token can look images up",
        ),
    ];
    let mut url = None;
    if let Ok((found, policies)) = &answers.lists {
        let judged = destinations::judge(installation, found, policies);
        checks.extend(judged.checks);
        url = judged.url;
    } else {
        let reason = "the destinations cannot be listed";
        checks.extend(skipped(destinations::NAMES, reason));
    }
    AccountChecks { checks, url }
}

async fn call(client: &Client, limits: Limits) -> Answers {
    let lists = async {
        let destinations = client.destinations().await?;
        Ok((destinations, client.policies().await?))
    };
    // An image that does not exist shows the permission as well.
    let image = async {
        let id = CloudflareId::parse(&format!("doctor-{}", uuid_v4()));
        match id {
            Ok(id) => client.image(&id).await.map(drop),
            Err(_) => Ok(()),
        }
    };
    // The futures of calls are large.
    let (token, lists, image) = tokio::join!(
        attempt(limits, Box::pin(client.token())),
        attempt(limits, Box::pin(lists)),
        attempt(limits, Box::pin(image)),
    );
    Answers {
        token,
        lists,
        image,
    }
}

async fn attempt<T>(
    limits: Limits,
    call: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, Failure> {
    let mut is_forbidden = false;
    let call = async {
        call.await.inspect_err(|error| {
            is_forbidden = error.kind == ErrorKind::Forbidden;
        })
    };
    let result = limits.run(call).await;
    result.map_err(|text| Failure { text, is_forbidden })
}

fn judge_token(answers: &Answers, now: Timestamp) -> Check {
    let name = CheckName::ApiToken;
    let make_one = format!(
        "Make a token with the permissions {PERMISSIONS}, and set CLOUDFLARE_API_TOKEN to it."
    );
    let token = match &answers.token {
        Ok(token) => token,
        Err(_) if answers.lists.is_ok() || answers.image.is_ok() => {
            return Check::ok(name, "the token works; the time of its expiry is unknown");
        }
        Err(failure) => return Check::error(name, failure.text.clone(), make_one),
    };
    if token.status != "active" {
        return Check::error(name, format!("the token is {}", token.status), make_one);
    }
    match token.expires_at() {
        None => Check::ok(name, "the token is active, and does not expire"),
        Some(time) if time <= now => {
            Check::error(name, format!("the token expired at {time}"), make_one)
        }
        Some(time) if time <= now.saturating_add(EXPIRY_NOTICE) => {
            Check::warning(name, format!("the token expires at {time}"), make_one)
        }
        Some(time) => Check::ok(name, format!("the token is active until {time}")),
    }
}

fn judge_permission(name: CheckName, failure: Option<&Failure>, allowed: &str) -> Check {
    let Some(failure) = failure else {
        return Check::ok(name, allowed);
    };
    let remedy = if failure.is_forbidden {
        format!("Give the token the permissions {PERMISSIONS}.")
    } else {
        "Check CLOUDFLARE_ACCOUNT_ID, and run this command again.".to_owned()
    };
    Check::error(name, failure.text.clone(), remedy)
}

fn check_clock(server: Option<Timestamp>, now: Timestamp) -> Check {
    let name = CheckName::Clock;
    let Some(server) = server else {
        return Check::skipped(name, "no answer of Cloudflare had a date");
    };
    let ahead = now.unix_seconds().saturating_sub(server.unix_seconds());
    if ahead.abs() < CLOCK_TOLERANCE_SECS {
        let found = "the clock of this machine agrees with Cloudflare's";
        return Check::ok(name, found);
    }
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    Check::warning(
        name,
        format!(
            "the clock of this machine is {} seconds {direction} Cloudflare's",
            ahead.abs()
        ),
        "Synchronize the clock. Signatures with a timestamp may differ by webhook.timestamp_tolerance_secs only.",
    )
}
