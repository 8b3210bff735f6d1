//! The time of single steps of a webhook: authenticating, parsing and deciding. `cargo bench` runs it.

use std::hint::black_box;
use std::time::Duration;

use axum::http::HeaderMap;
use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::image::ImageState;
use cloudflare_images_webhook::domain::notification::{Content, Report};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::domain::transition::{Arrival, transition};
use cloudflare_images_webhook::receiver::payload::{Pointers, parse};
use cloudflare_images_webhook::signing::{Message, Scheme, Verifier};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use secrecy::SecretString;

/// The payload that Cloudflare sends.
const ENVELOPE: &str = r#"{"name":"Images uploads","text":"An image was uploaded","data":{"image":{"id":"2cdc28f0-017a-49c4-9ed7-87056c83901","status":"success"}},"ts":1704110400,"account_id":"9a7806061c88ada191ed06f989cc3dac","policy_id":"0da2b59ef118439d8097bdfb215203c9","policy_name":"Images uploads","alert_type":"image_notification","alert_correlation_id":"7c4a5b6c0f2e4f0d8c3b2a1908f7e6d5"}"#;
/// A payload with every detail.
const FLAT: &str = r#"{"id":"2cdc28f0-017a-49c4-9ed7-87056c83901","filename":"cat.jpg","uploaded":"2024-01-01T12:00:00.000000Z","requireSignedURLs":false,"variants":["https://imagedelivery.net/ZWd9g1K7eljCn_KDTu_MWA/2cdc28f0-017a-49c4-9ed7-87056c83901/public","https://imagedelivery.net/ZWd9g1K7eljCn_KDTu_MWA/2cdc28f0-017a-49c4-9ed7-87056c83901/thumbnail"],"metadata":{"album":"holiday"}}"#;

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_704_110_400).expect("a valid time")
}

fn bench_verify(criterion: &mut Criterion) {
    let secret = SecretString::from("a secret of the benchmark");
    for scheme in Scheme::ALL {
        let message = Message {
            id: "msg_1",
            sent_at: now(),
            body: ENVELOPE.as_bytes(),
        };
        let headers: HeaderMap = scheme
            .sign(&secret, &message)
            .expect("the secret is valid")
            .into_iter()
            .map(|(name, value)| (name, value.parse().expect("a valid header")))
            .collect();
        let verifier = Verifier::new(
            &[scheme],
            [secret.clone()].into_iter(),
            Duration::from_mins(5),
        )
        .expect("the secret is valid");
        assert!(
            verifier.accepts(&headers, ENVELOPE.as_bytes(), now()),
            "the request is accepted"
        );
        criterion.bench_function(&format!("verify {}", scheme.name()), |bencher| {
            bencher.iter(|| {
                verifier.accepts(black_box(&headers), black_box(ENVELOPE.as_bytes()), now())
            });
        });
    }
}

fn pointers() -> Pointers {
    let loaded = load(&Environment::default(), None).expect("the defaults are valid");
    loaded.settings.webhook.envelope.pointers()
}

fn report(body: &str) -> Report {
    let content = parse(body.as_bytes(), &pointers())
        .expect("the body is valid")
        .content;
    let Content::Report(report) = content else {
        panic!("the payload is about an image");
    };
    report
}

fn bench_parse(criterion: &mut Criterion) {
    let pointers = pointers();
    for (shape, body) in [("envelope", ENVELOPE), ("flat", FLAT)] {
        criterion.bench_function(&format!("parse {shape}"), |bencher| {
            bencher.iter(|| parse(black_box(body.as_bytes()), &pointers));
        });
    }
}

fn bench_transition(criterion: &mut Criterion) {
    for (shape, body) in [("envelope", ENVELOPE), ("flat", FLAT)] {
        let report = report(body);
        criterion.bench_function(&format!("transition {shape}"), |bencher| {
            bencher.iter_batched_ref(
                ImageState::registered,
                |image| {
                    transition(
                        image,
                        black_box(&report),
                        Arrival::First { received_at: now() },
                    )
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(steps, bench_verify, bench_parse, bench_transition);
criterion_main!(steps);
