//! Whatever a client sends, it is answered, and never with a 5xx: what is wrong with it is the client's. Whatever is configured, it
//! is taken or refused with a sentence, and no secret is repeated.
//!
//! The inputs are the fuzzer's samples as they are, and mutilated at random; the same ones in each run. `make fuzz` goes on from there.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::mutation::{Prng, samples};
use crate::support::signing::{SECRET, hex_hmac};
use crate::support::{fuzz_config, fuzz_webhook};

/// How many are sent to each database.
const INPUTS: usize = 1500;

/// How many are given to the fuzzer's harness: requests without a network and a database, and settings.
const REQUESTS: usize = 20_000;
const SETTINGS: usize = 4000;

const SEED: u64 = 4711;

/// The samples' bodies.
fn bodies() -> Vec<Vec<u8>> {
    let without_head = |sample: Vec<u8>| {
        let end = sample.windows(2).position(|two| two == b"\n\n");
        end.map_or_else(Vec::new, |end| sample[end + 2..].to_vec())
    };
    samples("webhook").into_values().map(without_head).collect()
}

fn headers(numbers: &mut Prng, body: &[u8]) -> HeaderMap {
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
        if numbers.below(4) > 0 {
            continue;
        }
        let value = match numbers.below(5) {
            0 => SECRET.as_bytes().to_vec(),
            1 => hex_hmac(SECRET, body).into_bytes(),
            2 => b"sha256=zz".to_vec(),
            3 => b"-9223372036854775808".to_vec(),
            _ => (0..numbers.below(200))
                .map(|_| numbers.next().to_le_bytes()[0] | 0x80)
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
fn every_sample_of_a_webhook_is_answered_as_its_name_says() {
    let answers: BTreeMap<String, u16> = samples("webhook")
        .into_iter()
        .map(|(name, sample)| (name, fuzz_webhook::check(&sample)))
        .collect();

    let of = |status: u16| -> Vec<&str> {
        let answers = answers.iter().filter(|(_, answer)| **answer == status);
        answers.map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(of(401), ["no_proof", "wrong_proof"]);
    assert_eq!(of(403), ["from_elsewhere"]);
    assert_eq!(
        of(404),
        ["flat_details_only"],
        "the harness's inbox takes those for unknown"
    );
    assert_eq!(
        of(400),
        [
            "deep",
            "empty",
            "invalid_utf8",
            "lone_surrogate",
            "not_an_object",
            "not_json",
            "null_character",
            "numbers",
            "times",
            "unknown_shape"
        ]
    );
    assert_eq!(
        of(200),
        [
            "envelope",
            "envelope_failed",
            "envelope_flat_data",
            "envelope_of_another_product",
            "event",
            "flat",
            "flat_draft",
            "flat_error",
            "keys_twice",
            "proxied",
            "test_message"
        ]
    );
}

#[test]
fn a_mutilated_request_is_answered_and_never_with_a_5xx() {
    let (samples, mut numbers) = (samples("webhook"), Prng(SEED));
    let samples: Vec<Vec<u8>> = samples.into_values().collect();

    let seen: BTreeSet<u16> = (0..REQUESTS)
        .map(|_| fuzz_webhook::check(&numbers.mutated(&samples)))
        .collect();

    assert_eq!(seen, BTreeSet::from([200, 400, 401, 403, 404]));
}

#[test]
fn mutilated_settings_are_taken_or_refused_and_repeat_no_secret() {
    let (samples, mut numbers) = (samples("config"), Prng(SEED));
    let mut seen: BTreeSet<bool> = BTreeSet::new();
    for sample in samples.values() {
        seen.insert(fuzz_config::check(sample));
    }
    let samples: Vec<Vec<u8>> = samples.into_values().collect();

    for _ in 0..SETTINGS {
        seen.insert(fuzz_config::check(&numbers.mutated(&samples)));
    }

    assert_eq!(seen, BTreeSet::from([false, true]));
}

on_both_databases!(a_mutilated_webhook_never_makes_the_service_fail,);

async fn a_mutilated_webhook_never_makes_the_service_fail(database: Database) {
    let app = App::start_with(
        database,
        &[(
            "APP__WEBHOOK__SCHEMES",
            "cf-webhook-auth,hmac,timestamped,standard",
        )],
    )
    .await;
    app.database.register("image").await;
    let (samples, mut numbers) = (bodies(), Prng(SEED));
    let mut seen = BTreeMap::<u16, usize>::new();

    for number in 0..INPUTS {
        let body = numbers.mutated(&samples);
        let mut headers = headers(&mut numbers, &body);
        if number % 4 > 0 {
            headers.insert("cf-webhook-auth", HeaderValue::from_static(SECRET));
        }
        let answered = answer(app.request(body.clone()).headers(headers)).await;

        let status = answered.status.as_u16();
        assert!(
            status < 500,
            "{number} is answered with {status}: {}",
            String::from_utf8_lossy(&body)
        );
        *seen.entry(status).or_default() += 1;
    }

    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        [200, 400, 401, 404],
        "all kinds of answers were given: {seen:?}"
    );
    let refused = app
        .database
        .count("SELECT count(*) FROM webhook_rejections WHERE status = 400")
        .await;
    assert_eq!(
        usize::try_from(refused).ok(),
        seen.get(&400).copied(),
        "each refusal is kept"
    );
    let logged = app.database.logs().await.len();
    assert_eq!(
        Some(&logged),
        seen.get(&200),
        "each success is in the audit trail"
    );
    assert_eq!(
        app.deliver(r#"{"text":"hello"}"#).await.outcome(),
        (200, "test")
    );
}
