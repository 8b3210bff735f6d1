//! The service, run in this process as `main` runs it, on ports of its own and with a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloudflare_images_webhook::app::{Listeners, run};
use cloudflare_images_webhook::clock::ManualClock;
use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::shutdown::{ExitReason, Shutdown};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::database::Database;
use super::signing::SECRET;
use super::wait;

/// Where webhooks go when nothing else is set.
pub(crate) const PATH: &str = "/cloudflare-images/api/webhook/";

/// When the tests take place, in Unix seconds: 2024-01-01T12:00:00Z.
pub(crate) const NOW: i64 = 1_704_110_400;

/// A running service.
pub(crate) struct App {
    /// The database that it writes to.
    pub(crate) database: Database,
    /// Where it receives webhooks.
    pub(crate) address: SocketAddr,
    /// Where it answers the platform.
    pub(crate) ops: SocketAddr,
    /// Its clock.
    pub(crate) clock: Arc<ManualClock>,
    /// Asks it to stop.
    pub(crate) shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<ExitReason>>,
    client: Client,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl App {
    /// A service with the tests' secret and otherwise the defaults.
    pub(crate) async fn start(database: Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// A service with these environment variables beside.
    pub(crate) async fn start_with(database: Database, variables: &[(&str, &str)]) -> Self {
        let base = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ];
        let environment: Environment = base.into_iter().chain(variables.iter().copied()).collect();
        let loaded = load(&environment, None).expect("the settings are right");

        let listen = || async {
            tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a free port")
        };
        let listeners = Listeners {
            webhook: listen().await,
            ops: listen().await,
        };
        let address = listeners.webhook.local_addr().expect("an address");
        let ops = listeners.ops.local_addr().expect("an address");
        let clock = Arc::new(ManualClock::at(
            Timestamp::from_unix_seconds(NOW).expect("a time"),
        ));
        let shutdown = Shutdown::default();

        let running = tokio::spawn({
            let (clock, shutdown) = (clock.clone(), shutdown.clone());
            async move { run(&loaded, clock, listeners, shutdown).await }
        });
        let app = Self {
            database,
            address,
            ops,
            clock,
            shutdown,
            running,
            client: client(),
        };
        app.wait_until_it_serves().await;
        app
    }

    /// The webhook's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// A request to the webhook, with nothing on it.
    pub(crate) fn unsigned(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(self.url()).body(body)
    }

    /// Posts a webhook as Cloudflare does: the secret in a header.
    pub(crate) async fn deliver(&self, body: impl Into<reqwest::Body>) -> Answer {
        answer(self.unsigned(body).header("cf-webhook-auth", SECRET)).await
    }

    /// Asks the listener for the platform.
    pub(crate) async fn probe(&self, path: &str) -> Answer {
        answer(self.client.get(format!("http://{}{path}", self.ops))).await
    }

    /// What is counted under this name, without what all names begin with.
    pub(crate) async fn counted(&self, name: &str) -> i64 {
        metric(&self.metrics_url(), name).await
    }

    /// Waits until the worker of the one endpoint has looked for due deliveries: what it may send by now, it has claimed.
    pub(crate) async fn wait_for_claim(&self) {
        wait_for_pass(&self.metrics_url(), CLAIMS).await;
    }

    /// Waits until all parked notifications have been looked at.
    pub(crate) async fn wait_for_sweep(&self) {
        wait_for_pass(&self.metrics_url(), "parked_sweeps_total").await;
    }

    fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.ops)
    }

    /// Any other request.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks the service to stop, and returns how it ended and what it leaves behind.
    pub(crate) async fn stop(self) -> (ExitReason, Database) {
        self.shutdown.graceful.cancel();
        let ending = self
            .running
            .await
            .expect("the service does not panic")
            .expect("the service runs");
        (ending, self.database)
    }

    async fn wait_until_it_serves(&self) {
        // The socket listens before the service does, so the first answer comes when there is one; unless it failed to start.
        let answer = self.client.get(self.url()).send().await;
        assert!(answer.is_ok(), "the service did not start: {answer:?}");
    }
}

/// A client that waits for nothing for ever.
pub(crate) fn client() -> Client {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(Duration::from_mins(1))
        .no_proxy()
        // Each request on a connection of its own: none is lost to one that the service closes at that moment.
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client")
}

/// Counts the times that workers looked for due deliveries.
pub(crate) const CLAIMS: &str = "relay_claims_total";

/// Reads one number from the metrics at this URL, by its name without what all names begin with.
pub(crate) async fn metric(url: &str, name: &str) -> i64 {
    let metrics = answer(client().get(url)).await;
    assert_eq!(metrics.status, 200);
    assert_eq!(
        metrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = metrics.body.as_str().expect("text");
    let name = format!("cloudflare_images_webhook_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value
        .unwrap_or_else(|| panic!("{name}is in {text}"))
        .parse()
        .expect("a number")
}

/// Waits until a pass that this name counts has begun after the call, and has ended. A pass that is under way may have begun
/// before, and passes follow one another, so the second one to end is it.
pub(crate) async fn wait_for_pass(url: &str, name: &str) {
    let before = metric(url, name).await;
    wait::until_async(&format!("{name} has grown by two"), async || {
        metric(url, name).await >= before + 2
    })
    .await;
}

/// Sends a request and reads the answer.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer {
        status,
        headers,
        body,
    }
}

impl Answer {
    /// Status and outcome in one, to compare.
    pub(crate) fn outcome(&self) -> (u16, &str) {
        let problem = self.body["type"]
            .as_str()
            .and_then(|name| name.strip_prefix("urn:cloudflare-images-webhook:problem:"));
        (
            self.status.as_u16(),
            self.body["outcome"]
                .as_str()
                .or(problem)
                .unwrap_or_default(),
        )
    }
}
