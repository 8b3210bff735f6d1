//! Telling other apps: how many a second, how soon, and what it costs those who send webhooks.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::subscriber::{Manner, Subscriber};
use crate::support::app::client;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::{SECRET, hex_hmac};
use crate::webhooks::{Shape, body, image_id};

/// What waits when the rate is measured.
const BACKLOG: usize = 20_000;

/// What waits when it is measured whether more takes longer for each.
const LONG_BACKLOG: usize = 100_000;

/// How many webhooks come a second while it is measured how soon they are told of.
const CALM_RATE: u32 = 200;

/// For how many webhooks that is measured.
const CALM_WEBHOOKS: usize = 2_000;

/// How many calls to one endpoint are under way at once.
const IN_FLIGHT: usize = 64;

/// The endpoint that is measured.
const NAME: &str = "good";

/// What was measured.
pub(crate) struct Relayed {
    /// Deliveries a second to one endpoint, every attempt logged.
    pub(crate) rate: f64,
    /// The same with far more waiting.
    pub(crate) long_rate: f64,
    /// The same while one endpoint hangs and one fails, the better of two.
    pub(crate) beside_bad: f64,
    /// The same alone, measured alternately with that.
    pub(crate) alone: f64,
    /// From the answer to a webhook to its delivery, of 95 in a hundred.
    pub(crate) p95: Duration,
}

/// The endpoints as a variable of the environment.
pub(crate) fn endpoints(subscribers: &[(&str, &Subscriber)]) -> String {
    let endpoints: Vec<_> = subscribers
        .iter()
        .map(|(name, subscriber)| {
            json!({
                "name": name, "url": subscriber.url(), "secret": SECRET, "max_in_flight": IN_FLIGHT,
                "include_models": ["cloudflare_images.CloudflareImage"],
            })
        })
        .collect();
    serde_json::to_string(&endpoints).expect("JSON")
}

/// Starts the service with these endpoints, and with that channel, if it is one.
pub(crate) fn service(
    folder: &Path,
    database: &Database,
    endpoints: &str,
    channel: &str,
) -> Service {
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        // What fails is logged, and should not be what is measured.
        ("RUST_LOG", "off"),
        ("APP__RELAY__ENDPOINTS", endpoints),
        ("APP__RELAY__NOTIFY_CHANNEL", channel),
    ];
    Service::start(folder, &variables)
}

/// How many deliveries a second are made of so many that wait for the good endpoint, and as many for each of the others.
pub(crate) async fn drain(
    folder: &Path,
    database: &Database,
    count: usize,
    bad: &[(&str, Manner)],
) -> f64 {
    // The tables are made by a service that has nobody to tell.
    drop(service(folder, database, "[]", ""));
    let good = Subscriber::start(Manner::Good, false);
    let others: Vec<(&str, Subscriber)> = bad
        .iter()
        .map(|(name, manner)| (*name, Subscriber::start(*manner, false)))
        .collect();
    let mut told = vec![(NAME, &good)];
    told.extend(others.iter().map(|(name, subscriber)| (*name, subscriber)));
    for (name, _) in &told {
        fill(database, name, count).await;
    }

    let started = now();
    let _service = service(folder, database, &endpoints(&told), "");
    let delivered = format!(
        "SELECT count(*) FROM relay_deliveries WHERE endpoint = '{NAME}' AND status = 'delivered'"
    );
    while good.count() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while database.count(&delivered).await < i64::try_from(count).expect("it fits") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let time = now() - started;
    let attempts = "SELECT count(*) FROM relay_attempts WHERE status_code = 200";
    let logged = database.count(attempts).await;
    assert_eq!(
        usize::try_from(logged),
        Ok(count),
        "every attempt is logged"
    );
    assert_eq!(good.count(), count, "each was delivered once");
    #[expect(clippy::cast_precision_loss, reason = "there are less than 2^52")]
    let rate = count as f64 / time.as_secs_f64();
    rate
}

/// Puts so many events and deliveries into the outbox, as the service does.
async fn fill(database: &Database, endpoint: &str, count: usize) {
    let numbers = if database.is_postgres() {
        format!("SELECT number FROM generate_series(1, {count}) AS number")
    } else {
        format!(
            "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count}) SELECT number FROM numbers"
        )
    };
    // As long as a message of an uploaded image is.
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

/// How soon after its answer a webhook is told of, 95 times in a hundred, while they come at a calm rate.
pub(crate) async fn latency(folder: &Path, database: &Database) -> Duration {
    let subscriber = Subscriber::start(Manner::Good, true);
    let service = service(folder, database, &endpoints(&[(NAME, &subscriber)]), "");
    crate::register(database, CALM_WEBHOOKS).await;
    let (url, client) = (Arc::<str>::from(service.url()), client_that_keeps());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CALM_RATE);
    let mut sending = Vec::new();
    for number in 1..=CALM_WEBHOOKS {
        ticks.tick().await;
        let (client, url) = (client.clone(), Arc::clone(&url));
        sending.push(tokio::spawn(async move {
            let body = body(Shape::Envelope, &image_id(number), 0);
            let signature = hex_hmac(SECRET, &body);
            let request = client
                .post(&*url)
                .header("x-signature", signature)
                .body(body);
            let response = request.send().await.expect("an answer");
            assert!(response.status().is_success(), "it is acknowledged");
            (number, now())
        }));
    }
    let mut answered = Vec::new();
    for sent in sending {
        answered.push(sent.await.expect("no panic"));
    }
    while subscriber.count() < CALM_WEBHOOKS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut latencies: Vec<Duration> = answered
        .into_iter()
        .map(|(number, answered)| {
            let told = subscriber.told_at(&image_id(number)).expect("it was told");
            told.saturating_duration_since(answered)
        })
        .collect();
    latencies.sort_unstable();
    latencies[latencies.len() * 95 / 100]
}

fn client_that_keeps() -> reqwest::Client {
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

/// Everything but what it costs those who send webhooks. `database` makes an empty one each time.
pub(crate) async fn measure(folder: &Path, database: impl AsyncFn() -> Database) -> Relayed {
    let rate = drain(folder, &database().await, BACKLOG, &[]).await;
    let long_rate = drain(folder, &database().await, LONG_BACKLOG, &[]).await;
    let bad = [("hanging", Manner::Hanging), ("failing", Manner::Failing)];
    let (mut beside_bad, mut alone) = (0.0_f64, 0.0_f64);
    for _ in 0..2 {
        beside_bad = beside_bad.max(drain(folder, &database().await, BACKLOG, &bad).await);
        alone = alone.max(drain(folder, &database().await, BACKLOG, &[]).await);
    }
    let p95 = latency(folder, &database().await).await;
    Relayed {
        rate,
        long_rate,
        beside_bad,
        alone,
        p95,
    }
}
