//! The fuzzer's samples, unchanged and with random changes.
//!
//! No request gets a 5xx. Settings are accepted or refused with a message that contains no secret.
//! Every run uses the same inputs; `make fuzz` finds more.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::mutation::{Prng, samples};
use crate::support::signing::{SECRET, hex_hmac};
use crate::support::{
    fuzz_config, fuzz_database_url, fuzz_headers, fuzz_message, fuzz_nesting, fuzz_secrets,
    fuzz_webhook,
};

/// The number of requests to each database.
const DATABASE_REQUESTS: usize = 1500;

/// The number of inputs to the fuzzer's checks, which use neither a network nor a database.
const CHECKED_REQUESTS: usize = 20_000;
const CHECKED_SETTINGS: usize = 4000;
const CHECKED_MESSAGES: usize = 2000;
const CHECKED_NESTINGS: usize = 1000;

const SEED: u64 = 4711;

/// Returns the bodies of the samples.
fn bodies() -> Vec<Vec<u8>> {
    let without_head = |sample: Vec<u8>| {
        let end = sample.windows(2).position(|two| two == b"\n\n");
        end.map_or_else(Vec::new, |end| sample[end + 2..].to_vec())
    };
    samples("webhook").into_values().map(without_head).collect()
}

fn headers(prng: &mut Prng, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [
        "cf-webhook-auth",
        "x-signature",
        "x-cloudflare-signature",
        "x-webhook-signature",
        "x-webhook-timestamp",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "content-type",
        "x-request-id",
        "x-forwarded-for",
        "expect",
    ] {
        if prng.below(4) > 0 {
            continue;
        }
        let value = match prng.below(5) {
            0 => SECRET.as_bytes().to_vec(),
            1 => hex_hmac(SECRET, body).into_bytes(),
            2 => b"sha256=zz".to_vec(),
            3 => b"-9223372036854775808".to_vec(),
            _ => (0..prng.below(200))
                .map(|_| prng.next().to_le_bytes()[0] | 0x80)
                .collect(),
        };
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    headers.remove("expect");
    headers
}

#[test]
fn each_sample_gets_its_status() {
    let statuses: BTreeMap<String, u16> = samples("webhook")
        .into_iter()
        .map(|(name, sample)| (name, fuzz_webhook::check(&sample)))
        .collect();

    let with_status = |status: u16| -> Vec<&str> {
        let statuses = statuses.iter().filter(|(_, found)| **found == status);
        statuses.map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(with_status(401), ["no_credential", "wrong_credential"]);
    assert_eq!(with_status(403), ["forbidden_address"]);
    assert_eq!(
        with_status(404),
        ["flat_details_only", "numbers"],
        "the check's inbox treats reports without a status as unknown images"
    );
    assert_eq!(
        with_status(400),
        [
            "deep",
            "empty",
            "invalid_utf8",
            "lone_surrogate",
            "not_an_object",
            "not_json",
            "unknown_shape"
        ]
    );
    assert_eq!(
        with_status(200),
        [
            "envelope",
            "envelope_failed",
            "envelope_flat_data",
            "envelope_other_alert",
            "event",
            "flat",
            "flat_draft",
            "flat_error",
            "invalid_details",
            "keys_repeated",
            "null_character",
            "proxied",
            "test_message",
            "times"
        ]
    );
}

#[test]
fn mutated_requests_cause_no_5xx_without_database() {
    let (samples, mut prng) = (samples("webhook"), Prng(SEED));
    let samples: Vec<Vec<u8>> = samples.into_values().collect();

    let seen: BTreeSet<u16> = (0..CHECKED_REQUESTS)
        .map(|_| fuzz_webhook::check(&prng.mutated(&samples)))
        .collect();

    assert_eq!(seen, BTreeSet::from([200, 400, 401, 403, 404]));
}

#[test]
fn mutated_headers_forge_nothing() {
    let samples = samples("headers");
    let forwarded = |name: &str| fuzz_headers::check(&samples[name]);
    assert!(forwarded("forwarded") && forwarded("mapped_proxy"));
    assert!(!forwarded("untrusted_peer") && !forwarded("wrong_credentials"));
    let (samples, mut prng) = (samples.into_values().collect::<Vec<_>>(), Prng(SEED));

    for _ in 0..CHECKED_REQUESTS {
        fuzz_headers::check(&prng.mutated(&samples));
    }
}

#[test]
fn mutated_settings_leak_no_secret() {
    let (samples, mut prng) = (samples("config"), Prng(SEED));
    let mut seen: BTreeSet<bool> = BTreeSet::new();
    for sample in samples.values() {
        seen.insert(fuzz_config::check(sample));
    }
    let samples: Vec<Vec<u8>> = samples.into_values().collect();

    for _ in 0..CHECKED_SETTINGS {
        seen.insert(fuzz_config::check(&prng.mutated(&samples)));
    }

    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn mutated_database_urls_leak_no_password() {
    let check = fuzz_database_url::check;
    let seen = check_on_stack(8, "database_url", CHECKED_SETTINGS, check);

    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn mutated_secrets_are_never_shown() {
    let seen = check_on_stack(8, "secrets", CHECKED_SETTINGS, fuzz_secrets::check);

    assert_eq!(seen, BTreeSet::from([false, true]));
}

/// Checks the samples and this number of changed ones, on a stack of this size. Returns the results.
fn check_on_stack(
    mebibytes: usize,
    target: &'static str,
    count: usize,
    check: fn(&[u8]) -> bool,
) -> BTreeSet<bool> {
    let check_all = move || {
        let (samples, mut prng) = (samples(target), Prng(SEED));
        let samples: Vec<Vec<u8>> = samples.into_values().collect();
        let mut seen: BTreeSet<bool> = samples.iter().map(|sample| check(sample)).collect();
        seen.extend((0..count).map(|_| check(&prng.mutated(&samples))));
        seen
    };
    let thread = std::thread::Builder::new().stack_size(mebibytes * 1024 * 1024);
    let checking = thread.spawn(check_all).expect("a thread");
    checking.join().expect("no panic")
}

#[test]
fn mutated_messages_keep_filters() {
    // A worker process has this stack.
    let seen = check_on_stack(64, "message", CHECKED_MESSAGES, fuzz_message::check);

    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn nesting_is_accepted_up_to_limits() {
    // The relay's threads have this stack.
    let seen = check_on_stack(8, "nesting", CHECKED_NESTINGS, fuzz_nesting::check);

    assert_eq!(seen, BTreeSet::from([false, true]));
}

on_both_databases!(mutated_webhooks_cause_no_5xx_with_database,);

async fn mutated_webhooks_cause_no_5xx_with_database(database: Database) {
    let app = App::start_with(
        database,
        &[(
            "APP__WEBHOOK__SCHEMES",
            "cf-webhook-auth,hmac,timestamped,standard",
        )],
    )
    .await;
    app.database.register("image").await;
    let (samples, mut prng) = (bodies(), Prng(SEED));
    let mut seen = BTreeMap::<u16, usize>::new();

    for number in 0..DATABASE_REQUESTS {
        let body = prng.mutated(&samples);
        let mut headers = headers(&mut prng, &body);
        if number % 4 > 0 {
            headers.insert("cf-webhook-auth", HeaderValue::from_static(SECRET));
        }
        let response = response_to(app.request(body.clone()).headers(headers)).await;

        let status = response.status.as_u16();
        assert!(
            status < 500,
            "request {number} got status {status}: {}",
            String::from_utf8_lossy(&body)
        );
        *seen.entry(status).or_default() += 1;
    }

    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [200, 400, 401, 404],
        "expected every kind of response, found {seen:?}"
    );
    let refused = app
        .database
        .count("SELECT count(*) FROM webhook_rejections WHERE status = 400")
        .await;
    assert_eq!(
        usize::try_from(refused).ok(),
        seen.get(&400).copied(),
        "each rejection is stored"
    );
    let logged = app.database.logs().await.len();
    assert_eq!(
        Some(&logged),
        seen.get(&200),
        "each success is in the audit log"
    );
    assert_eq!(
        app.post_webhook(r#"{"text":"test message"}"#)
            .await
            .outcome(),
        (200, "test")
    );
}
