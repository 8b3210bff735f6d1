//! The checks of what happened lately: received and refused webhooks, waiting images, deliveries.

use std::time::Duration;

use serde_json::Value;

use super::check::{Check, CheckName};
use super::installation::Installation;
use super::json_keys::pointers;
use super::limits::Limits;
use crate::domain::timestamp::Timestamp;
use crate::store::{MAX_EXAMINED_ROWS, Parked, Refusals, Store, StoreError, WaitingImages};

/// The checks of this file.
pub(super) const NAMES: [CheckName; 6] = [
    CheckName::LastWebhook,
    CheckName::RefusedWebhooks,
    CheckName::UnreadNotification,
    CheckName::WaitingImages,
    CheckName::ParkedNotifications,
    CheckName::FailedDeliveries,
];

/// The time after which an image should have its file, and a parked notification its image.
const PATIENCE: Duration = Duration::from_hours(1);

/// The time for which refused requests are counted.
const REFUSAL_PERIOD: Duration = Duration::from_hours(24);

/// Only shows a database that fails during the checks.
const LOOK_AT_DATABASE: &str = "Check the database, and run this command again.";

pub(super) async fn check(
    store: &Store,
    installation: &Installation<'_>,
    limits: Limits,
) -> Vec<Check> {
    let now = installation.clock.now();
    let diagnostics = &store.diagnostics;
    let (refusals, waiting, deliveries, parked) = tokio::join!(
        limits.run(diagnostics.refusals(now.saturating_sub(REFUSAL_PERIOD))),
        limits.run(diagnostics.waiting_images(now.saturating_sub(PATIENCE))),
        limits.run(diagnostics.failed_deliveries()),
        limits.run(diagnostics.parked()),
    );
    let (last_webhook, unread) = tokio::join!(
        limits.run(last_webhook(store, now)),
        limits.run(unread_notification(store, now)),
    );
    vec![
        or_failed(CheckName::LastWebhook, last_webhook),
        or_failed(
            CheckName::RefusedWebhooks,
            refusals.map(|found| judge_refusals(&found)),
        ),
        or_failed(CheckName::UnreadNotification, unread),
        or_failed(
            CheckName::WaitingImages,
            waiting.map(|found| judge_waiting(found, installation.cloudflare.is_some())),
        ),
        or_failed(
            CheckName::ParkedNotifications,
            parked.map(|found| judge_parked(found, now)),
        ),
        or_failed(
            CheckName::FailedDeliveries,
            deliveries.map(|found| judge_deliveries(&found)),
        ),
    ]
}

fn or_failed(name: CheckName, result: Result<Check, String>) -> Check {
    result.unwrap_or_else(|problem| Check::error(name, problem, LOOK_AT_DATABASE))
}

/// The audit log does not have the scheme of a webhook. Only rejections have it.
async fn last_webhook(store: &Store, now: Timestamp) -> Result<Check, StoreError> {
    let name = CheckName::LastWebhook;
    let rejection = store.diagnostics.last_authenticated_rejection().await?;
    let refused = rejection.map(|rejection| {
        format!(
            "; the last refused one came {}, and its scheme was {}",
            age(rejection.received_at, now),
            rejection.scheme
        )
    });
    let refused = refused.unwrap_or_default();
    Ok(match store.diagnostics.last_webhook().await? {
        Some(time) => Check::ok(
            name,
            format!(
                "it came {}; its scheme is unknown, because the audit log does not have it{refused}",
                age(time, now)
            ),
        ),
        None => Check::warning(
            name,
            format!(
                "there is none in the newest {MAX_EXAMINED_ROWS} entries of the audit log{refused}"
            ),
            "Upload an image with an upload URL. Cloudflare sends no webhook about images that your servers upload.",
        ),
    })
}

/// Returns how long ago a time was.
fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.unix_seconds().saturating_sub(time.unix_seconds());
    let text = match seconds {
        ..120 => "less than 2 minutes ago".to_owned(),
        120..7_200 => format!("{} minutes ago", seconds / 60),
        7_200..172_800 => format!("{} hours ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    };
    format!("{text} ({time})")
}

fn judge_refusals(refusals: &Refusals) -> Check {
    let name = CheckName::RefusedWebhooks;
    let Some((first, _)) = refusals.by_reason.first() else {
        return Check::ok(name, "none in the last 24 hours");
    };
    let counts = refusals.by_reason.iter();
    let counts: Vec<String> = counts
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let at_least = if refusals.is_incomplete {
        "at least "
    } else {
        ""
    };
    let found = format!("in the last 24 hours: {at_least}{}", counts.join(", "));
    let remedy = match first.as_str() {
        "unauthorized" => {
            "If `rejections list --state counted` shows Cloudflare's networks, run `cloudflare setup`, which sends the secret again."
        }
        "unknown-image" => {
            "Register each image before its upload, or set webhook.unknown_images to create."
        }
        "address-not-allowed" => {
            "Compare `rejections list --state counted` with webhook.allowed_addresses."
        }
        _ => "Run `rejections list`. It shows what was wrong.",
    };
    Check::warning(name, found, remedy)
}

fn judge_waiting(images: WaitingImages, has_account: bool) -> Check {
    let name = CheckName::WaitingImages;
    let WaitingImages { examined, waiting } = images;
    let among = if examined >= u64::from(MAX_EXAMINED_ROWS) {
        format!("of the newest {examined} images that are older than an hour, {waiting}")
    } else {
        format!("of {examined} images that are older than an hour, {waiting}")
    };
    let found = format!("{among} still wait for their upload");
    if waiting == 0 {
        return Check::ok(name, found);
    }
    Check::warning(
        name,
        found,
        if has_account {
            "Run `reconcile`. It asks Cloudflare what became of them."
        } else {
            "Set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN, and run `reconcile`. It asks Cloudflare what became of them."
        },
    )
}

fn judge_parked(parked: Parked, now: Timestamp) -> Check {
    let name = CheckName::ParkedNotifications;
    let Some(oldest) = parked.oldest else {
        return Check::ok(name, "none");
    };
    let count = up_to_limit(parked.count);
    let found = format!(
        "{count} wait for the row of their image; the first came {}",
        age(oldest, now)
    );
    if oldest >= now.saturating_sub(PATIENCE) {
        return Check::ok(name, found);
    }
    Check::warning(
        name,
        found,
        "Register these images: `rejections list --state parked` shows their ids.",
    )
}

fn judge_deliveries(failed: &[(String, u64)]) -> Check {
    let name = CheckName::FailedDeliveries;
    let Some((first, _)) = failed.first() else {
        return Check::ok(name, "none");
    };
    let counts = failed.iter();
    let counts: Vec<String> = counts
        .map(|(endpoint, count)| format!("{endpoint}: {}", up_to_limit(*count)))
        .collect();
    let total: u64 = failed.iter().map(|(_, count)| count).sum();
    let more = if total >= u64::from(MAX_EXAMINED_ROWS) {
        ", and perhaps more of other endpoints"
    } else {
        ""
    };
    Check::warning(
        name,
        format!("given up, by endpoint: {}{more}", counts.join(", ")),
        format!(
            "Run `deliveries list --endpoint {first} --status failed`, correct the cause, and run `deliveries replay`."
        ),
    )
}

fn up_to_limit(count: u64) -> String {
    if count >= u64::from(MAX_EXAMINED_ROWS) {
        format!("at least {count}")
    } else {
        count.to_string()
    }
}

/// Shows the keys of the body, and never its values, so that a user can report them.
async fn unread_notification(store: &Store, now: Timestamp) -> Result<Check, StoreError> {
    let name = CheckName::UnreadNotification;
    let none = Check::ok(name, "every notification could be read");
    let Some(id) = store.diagnostics.last_invalid_payload().await? else {
        return Ok(none);
    };
    let Some(rejection) = store.rejection_catalog.find_rejection(id).await? else {
        return Ok(none);
    };
    let document = rejection
        .whole_body()
        .map(|body| serde_json::from_slice::<Value>(body.as_bytes()));
    let keys = match document {
        None => "its body is too long to be shown".to_owned(),
        Some(Err(_)) => "its body is not JSON".to_owned(),
        Some(Ok(document)) => match pointers(&document) {
            (pointers, _) if pointers.is_empty() => "its body has no keys".to_owned(),
            (pointers, false) => format!("its keys are {}", pointers.join(" ")),
            (pointers, true) => format!("some of its keys are {}", pointers.join(" ")),
        },
    };
    Ok(Check::warning(
        name,
        format!(
            "rejection {id} came {}; {keys}",
            age(rejection.received_at, now)
        ),
        format!(
            "Run `rejections show {id}`. If Cloudflare sent it, set webhook.envelope.id_pointers, and report the keys."
        ),
    ))
}
