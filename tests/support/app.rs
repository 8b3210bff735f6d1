//! The service, run in this process as `main` runs it. It has ports of its own and a clock that the
//! test controls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloudflare_images_webhook::app::{Listeners, run};
use cloudflare_images_webhook::clock::{Clock, ManualClock, SystemClock};
use cloudflare_images_webhook::config::{Environment, load};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::shutdown::{ExitReason, Shutdown};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::database::Database;
use super::signing::SECRET;
use super::{program, wait};

/// The default path of webhooks.
pub(crate) const PATH: &str = "/cloudflare-images/api/webhook/";

/// The start time of every test, in Unix seconds: 2024-01-01T12:00:00Z.
pub(crate) const NOW: i64 = 1_704_110_400;

/// A running service.
pub(crate) struct App {
    /// Its database.
    pub(crate) database: Database,
    /// The address of the webhook listener.
    pub(crate) address: SocketAddr,
    /// The address of the ops listener.
    pub(crate) ops: SocketAddr,
    pub(crate) clock: Arc<ManualClock>,
    /// Stops the service.
    pub(crate) shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<ExitReason>>,
    client: Client,
}

/// A system clock that is ahead.
struct ClockAhead(Duration);

impl Clock for ClockAhead {
    fn now(&self) -> Timestamp {
        SystemClock.now().saturating_add(self.0)
    }
}

/// A response of the service, with its whole body.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl App {
    /// Starts a service with the tests' secret and default settings.
    pub(crate) async fn start(database: Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts a service with additional environment variables.
    pub(crate) async fn start_with(database: Database, variables: &[(&str, &str)]) -> Self {
        let now = Timestamp::from_unix_seconds(NOW).expect("a time");
        let clock = Arc::new(ManualClock::at(now));
        Self::launch(database, variables, clock.clone(), clock).await
    }

    /// Starts a service whose system clock is ahead of the database's clock by this time.
    pub(crate) async fn start_ahead(
        database: Database,
        variables: &[(&str, &str)],
        ahead: Duration,
    ) -> Self {
        let now = Timestamp::from_unix_seconds(NOW).expect("a time");
        let unused = Arc::new(ManualClock::at(now));
        Self::launch(database, variables, unused, Arc::new(ClockAhead(ahead))).await
    }

    async fn launch(
        database: Database,
        variables: &[(&str, &str)],
        manual_clock: Arc<ManualClock>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let base = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ];
        let environment: Environment = base.into_iter().chain(variables.iter().copied()).collect();
        let environment = environment.with_executable(program::path());
        let loaded = load(&environment, None).expect("the settings are valid");

        let listen = || async {
            tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a free port")
        };
        let listeners = Listeners {
            webhook: listen().await,
            ops: Some(listen().await),
        };
        let address = listeners.webhook.local_addr().expect("an address");
        let ops = listeners.ops.as_ref().expect("it has its own port");
        let ops = ops.local_addr().expect("an address");
        let shutdown = Shutdown::default();

        let running = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { run(&loaded, clock, listeners, shutdown).await }
        });
        let app = Self {
            database,
            address,
            ops,
            clock: manual_clock,
            shutdown,
            running,
            client: client(),
        };
        app.wait_until_serving().await;
        app
    }

    /// Returns the webhook's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Builds an unauthenticated webhook request.
    pub(crate) fn request(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(self.url()).body(body)
    }

    /// Posts a webhook with the secret in a header, as Cloudflare does.
    pub(crate) async fn post_webhook(&self, body: impl Into<reqwest::Body>) -> TestResponse {
        response_to(self.request(body).header("cf-webhook-auth", SECRET)).await
    }

    /// Sends a GET request to the ops listener.
    pub(crate) async fn get_ops(&self, path: &str) -> TestResponse {
        response_to(self.client.get(format!("http://{}{path}", self.ops))).await
    }

    /// Reads a metric by its name without the common prefix.
    pub(crate) async fn metric(&self, name: &str) -> i64 {
        metric(&self.metrics_url(), name).await
    }

    /// Waits until the worker of the only endpoint has claimed every delivery that is due.
    pub(crate) async fn wait_for_claim(&self) {
        wait_for_pass(&self.metrics_url(), CLAIMS_METRIC).await;
    }

    /// Waits for a complete sweep of the parked notifications.
    pub(crate) async fn wait_for_sweep(&self) {
        wait_for_pass(&self.metrics_url(), "parked_sweeps_total").await;
    }

    fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.ops)
    }

    /// Returns the HTTP client, for any other request.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Stops the service. Returns its exit reason and its database.
    pub(crate) async fn stop(self) -> (ExitReason, Database) {
        self.shutdown.graceful.cancel();
        let reason = self
            .running
            .await
            .expect("the service does not panic")
            .expect("the service runs");
        (reason, self.database)
    }

    async fn wait_until_serving(&self) {
        // The socket listens before the service accepts. The first response therefore means that
        // the service runs; an error means that it failed to start.
        let answer = self.client.get(self.url()).send().await;
        // The webhook listener closes connections from addresses that are not allowed.
        let livez = self.client.get(format!("http://{}/livez", self.ops));
        let is_running = answer.is_ok() || livez.send().await.is_ok();
        assert!(is_running, "the service did not start: {answer:?}");
    }
}

/// Returns an HTTP client with a timeout.
pub(crate) fn client() -> Client {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(Duration::from_mins(1))
        .no_proxy()
        // One connection per request. A reused connection could be closed by the service while the
        // request is sent.
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client")
}

/// The metric that counts the workers' claims of due deliveries.
pub(crate) const CLAIMS_METRIC: &str = "relay_claims_total";

/// Reads a metric from this URL by its name without the common prefix.
pub(crate) async fn metric(url: &str, name: &str) -> i64 {
    let metrics = response_to(client().get(url)).await;
    assert_eq!(metrics.status, 200);
    assert_eq!(
        metrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = metrics.body.as_str().expect("text");
    let name = format!("cloudflare_images_webhook_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value
        .unwrap_or_else(|| panic!("no metric {name}in {text}"))
        .parse()
        .expect("a number")
}

/// Waits until a pass that started after this call has ended. The first pass to end may have
/// started before the call, so this waits for the second.
pub(crate) async fn wait_for_pass(url: &str, name: &str) {
    let before = metric(url, name).await;
    wait::until_async(&format!("{name} has grown by two"), async || {
        metric(url, name).await >= before + 2
    })
    .await;
}

/// Sends a request and reads the response.
pub(crate) async fn response_to(request: RequestBuilder) -> TestResponse {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    TestResponse {
        status,
        headers,
        body,
    }
}

impl TestResponse {
    /// Returns the status, and the outcome or problem type.
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
