//! The speed of the relay: deliveries per second, and the time from a webhook to its delivery.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::subscriber::{Behavior, Subscriber};
use crate::support::app::client;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::{SECRET, hex_hmac};
use crate::webhooks::{Shape, body, image_id};

/// The number of waiting deliveries for the rate.
const BACKLOG: usize = 20_000;

/// The number of waiting deliveries for the rate with a long backlog.
const LONG_BACKLOG: usize = 100_000;

/// The webhooks per second while the latency is measured.
const LATENCY_RATE: u32 = 200;

/// The number of webhooks whose latency is measured.
const LATENCY_WEBHOOKS: usize = 2_000;

/// The maximum number of attempts in progress at one endpoint.
const MAX_IN_FLIGHT: usize = 64;

/// The name of the endpoint that is measured.
const MEASURED_ENDPOINT: &str = "good";

/// The result of the measurement. Rates are deliveries per second to one endpoint.
pub(crate) struct RelayResult {
    pub(crate) rate: f64,
    /// The rate with [`LONG_BACKLOG`] waiting deliveries.
    pub(crate) long_backlog_rate: f64,
    /// The rate next to a hanging and a failing endpoint: the better one of two measurements.
    pub(crate) rate_with_bad: f64,
    /// The rate without other endpoints, measured in turns with `rate_with_bad`.
    pub(crate) baseline_rate: f64,
    /// The 95th percentile of the time from the response to a webhook until its delivery.
    pub(crate) p95: Duration,
}

/// The rates with and without jq programs: each the better one of two measurements in turns.
#[derive(Clone, Copy)]
pub(crate) struct JqResult {
    pub(crate) rate: f64,
    pub(crate) baseline_rate: f64,
}

/// Measures the cost of `when` and `transform`. `database` returns a new empty database each time.
pub(crate) async fn measure_jq(folder: &Path, database: impl AsyncFn() -> Database) -> JqResult {
    let programs = json!({
        "when": ".object.cloudflare_id != null",
        "transform": "{id: .object.cloudflare_id, name: .object.filename}",
    });
    let (mut rate, mut baseline_rate) = (0.0_f64, 0.0_f64);
    for _ in 0..2 {
        let without = delivery_rate(folder, &database().await, BACKLOG, &Others::None).await;
        baseline_rate = baseline_rate.max(without);
        let with = Others::Programs(&programs);
        rate = rate.max(delivery_rate(folder, &database().await, BACKLOG, &with).await);
    }
    JqResult {
        rate,
        baseline_rate,
    }
}

/// The conditions of a measurement, in addition to the endpoint.
enum Others<'a> {
    None,
    /// Endpoints that also have waiting deliveries.
    BadEndpoints(&'a [(&'a str, Behavior)]),
    /// Additional settings of the measured endpoint.
    Programs(&'a Value),
}

/// Measures the relay. `database` returns a new empty database each time.
pub(crate) async fn measure(folder: &Path, database: impl AsyncFn() -> Database) -> RelayResult {
    let rate = delivery_rate(folder, &database().await, BACKLOG, &Others::None).await;
    let long_backlog_rate =
        delivery_rate(folder, &database().await, LONG_BACKLOG, &Others::None).await;
    let bad = Others::BadEndpoints(&[
        ("hanging", Behavior::Hanging),
        ("failing", Behavior::Failing),
    ]);
    let (mut rate_with_bad, mut baseline_rate) = (0.0_f64, 0.0_f64);
    for _ in 0..2 {
        let rate = delivery_rate(folder, &database().await, BACKLOG, &bad).await;
        rate_with_bad = rate_with_bad.max(rate);
        let rate = delivery_rate(folder, &database().await, BACKLOG, &Others::None).await;
        baseline_rate = baseline_rate.max(rate);
    }
    let p95 = p95_latency(folder, &database().await).await;
    RelayResult {
        rate,
        long_backlog_rate,
        rate_with_bad,
        baseline_rate,
        p95,
    }
}

/// Returns the endpoints as the value of an environment variable.
pub(crate) fn endpoints(subscribers: &[(&str, &Subscriber)]) -> String {
    endpoints_with(subscribers, &json!({}))
}

/// Returns the endpoints with these additional settings.
fn endpoints_with(subscribers: &[(&str, &Subscriber)], settings: &Value) -> String {
    let endpoints: Vec<_> = subscribers
        .iter()
        .map(|(name, subscriber)| {
            let mut endpoint = json!({
                "name": name, "url": subscriber.url(), "secret": SECRET, "max_in_flight": MAX_IN_FLIGHT,
                "include_models": ["cloudflare_images.CloudflareImage"],
            });
            let fields = endpoint.as_object_mut().expect("an object");
            fields.extend(settings.as_object().expect("an object").clone());
            endpoint
        })
        .collect();
    serde_json::to_string(&endpoints).expect("JSON")
}

/// Starts the service with these endpoints, and with this Postgres channel unless it is empty.
pub(crate) fn service(
    folder: &Path,
    database: &Database,
    endpoints: &str,
    channel: &str,
) -> Service {
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        // Logging the failures would cost time.
        ("RUST_LOG", "off"),
        ("APP__RELAY__ENDPOINTS", endpoints),
        ("APP__RELAY__NOTIFY_CHANNEL", channel),
    ];
    Service::start(folder, &variables)
}

/// Returns the deliveries per second to the measured endpoint. Before the start, `count` deliveries wait for it and for each bad
/// endpoint.
async fn delivery_rate(
    folder: &Path,
    database: &Database,
    count: usize,
    others: &Others<'_>,
) -> f64 {
    // A service without endpoints creates the tables.
    drop(service(folder, database, "[]", ""));
    let good = Subscriber::start(Behavior::Fast);
    let none = json!({});
    let (bad, settings) = match others {
        Others::None => (&[][..], &none),
        Others::BadEndpoints(bad) => (*bad, &none),
        Others::Programs(settings) => (&[][..], *settings),
    };
    let bad: Vec<(&str, Subscriber)> = bad
        .iter()
        .map(|(name, behavior)| (*name, Subscriber::start(*behavior)))
        .collect();
    let mut subscribers = vec![(MEASURED_ENDPOINT, &good)];
    subscribers.extend(bad.iter().map(|(name, subscriber)| (*name, subscriber)));
    for (name, _) in &subscribers {
        insert_backlog(database, name, count).await;
    }

    let started = now();
    let endpoints = endpoints_with(&subscribers, settings);
    let _service = service(folder, database, &endpoints, "");
    let delivered = format!(
        "SELECT count(*) FROM relay_deliveries WHERE endpoint = '{MEASURED_ENDPOINT}' AND status = 'delivered'"
    );
    while good.count() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while database.count(&delivered).await < i64::try_from(count).expect("a small number") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let elapsed = now() - started;
    let attempts = "SELECT count(*) FROM relay_attempts WHERE status_code = 200";
    let logged = database.count(attempts).await;
    assert_eq!(
        usize::try_from(logged),
        Ok(count),
        "every attempt is stored"
    );
    assert_eq!(good.count(), count, "every delivery was sent once");
    #[expect(clippy::cast_precision_loss, reason = "the counts are below 2^52")]
    let rate = count as f64 / elapsed.as_secs_f64();
    rate
}

/// Inserts `count` events and their deliveries, as the service does.
async fn insert_backlog(database: &Database, endpoint: &str, count: usize) {
    let numbers = if database.is_postgres() {
        format!("SELECT number FROM generate_series(1, {count}) AS number")
    } else {
        format!(
            "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count}) SELECT number FROM numbers"
        )
    };
    // Makes the payload as long as that of an uploaded image.
    let filler = "x".repeat(1000);
    let time = "'2024-01-01T12:00:00.000000Z'";
    database
        .execute_script(&format!(
            "INSERT INTO relay_events (id, event, model, image, payload, created_at)
             SELECT 'evt_{endpoint}_' || number, 'updated', 'cloudflare_images.CloudflareImage', 'image-' || number,
                 '{{\"object\":{{\"cloudflare_id\":\"image-' || number || '\",\"filename\":\"{filler}\"}}}}', {time}
             FROM ({numbers}) AS numbers;
             INSERT INTO relay_deliveries (event_id, endpoint, image, due_at, created_at)
             SELECT id, '{endpoint}', image, created_at, created_at FROM relay_events WHERE id LIKE 'evt_{endpoint}_%';"
        ))
        .await;
    if database.is_postgres() {
        database
            .execute("VACUUM ANALYZE relay_deliveries", &[])
            .await;
    }
}

/// Returns the 95th percentile of the time from the response to a webhook until its delivery, at a low rate.
async fn p95_latency(folder: &Path, database: &Database) -> Duration {
    let subscriber = Subscriber::start_with_times();
    let service = service(
        folder,
        database,
        &endpoints(&[(MEASURED_ENDPOINT, &subscriber)]),
        "",
    );
    crate::register(database, LATENCY_WEBHOOKS).await;
    let (url, client) = (Arc::<str>::from(service.url()), keep_alive_client());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / LATENCY_RATE);
    let mut sending = Vec::new();
    for number in 1..=LATENCY_WEBHOOKS {
        ticks.tick().await;
        let (client, url) = (client.clone(), Arc::clone(&url));
        sending.push(tokio::spawn(async move {
            let body = body(Shape::Envelope, &image_id(number), 0);
            let signature = hex_hmac(SECRET, &body);
            let request = client
                .post(&*url)
                .header("x-signature", signature)
                .body(body);
            let response = request.send().await.expect("a response");
            assert!(
                response.status().is_success(),
                "the webhook is acknowledged"
            );
            (number, now())
        }));
    }
    let mut answered = Vec::new();
    for sent in sending {
        answered.push(sent.await.expect("no panic"));
    }
    while subscriber.count() < LATENCY_WEBHOOKS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut latencies: Vec<Duration> = answered
        .into_iter()
        .map(|(number, answered)| {
            let received = subscriber.received_at(&image_id(number));
            let received = received.expect("every webhook was delivered");
            received.saturating_duration_since(answered)
        })
        .collect();
    latencies.sort_unstable();
    latencies[latencies.len() * 95 / 100]
}

/// Returns a client that reuses connections.
fn keep_alive_client() -> reqwest::Client {
    // Installs the TLS provider, which reqwest requires.
    drop(client());
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}
