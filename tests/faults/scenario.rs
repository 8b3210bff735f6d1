//! The service under load on one database, with faults.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::expectations::{Image, compare};
use super::fault::Fault;
use super::load::{Load, Registration};
use super::report::Row;
use crate::support::app::{client, metric, response_to};
use crate::support::database::Database;
use crate::support::ports::free_port;
use crate::support::program::{LogOutput, Service};
use crate::support::proxy::Proxy;
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

/// The number of acknowledged requests that proves progress.
pub(crate) const PROGRESS_REQUESTS: u64 = 100;

/// The number of Postgres connections of one service.
const MAX_CONNECTIONS: usize = 3;

/// How many files and tasks each service may have above the baseline: connections that its pools
/// have opened.
const ALLOWED_GROWTH: usize = 2 * MAX_CONNECTIONS;

/// Records updates that move an image's `status_at` back, even if a later update repairs it.
const REGRESSIONS_ON_SQLITE: &str = "
    CREATE TABLE regressions (cloudflare_id TEXT);
    CREATE TRIGGER regressions AFTER UPDATE ON cloudflare_images WHEN NEW.status_at < OLD.status_at BEGIN
        INSERT INTO regressions VALUES (NEW.cloudflare_id);
    END;";
const REGRESSIONS_ON_POSTGRES: &str = "
    CREATE TABLE regressions (cloudflare_id text);
    CREATE FUNCTION regressions() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO regressions VALUES (NEW.cloudflare_id); RETURN NEW; END';
    CREATE TRIGGER regressions AFTER UPDATE ON cloudflare_images FOR EACH ROW WHEN (NEW.status_at < OLD.status_at)
        EXECUTE FUNCTION regressions();";

/// A service, and its settings for a restart.
pub(crate) struct Replica {
    pub(crate) service: Service,
    /// The proxy between the service and Postgres.
    pub(crate) proxy: Option<Proxy>,
    database_url: String,
    registration: Registration,
    /// The endpoints, as the value of an environment variable.
    endpoints: String,
    /// The number of restarts.
    restarts: u64,
    /// The peak memory over all restarts.
    peak_memory_kib: u64,
}

/// A database and the services that use it.
pub(crate) struct Scenario {
    /// The database, without the proxy.
    pub(crate) database: Database,
    /// One service on SQLite, or two replicas on Postgres.
    pub(crate) replicas: Vec<Replica>,
    registration: Registration,
    /// The subscriber for the images that the service inserts.
    pub(crate) subscriber: Subscriber,
    folder: TempDir,
    /// The number of open files and tasks before the first load.
    baseline: (usize, usize),
    rounds: u64,
}

impl Replica {
    fn start(
        folder: &TempDir,
        database_url: String,
        proxy: Option<Proxy>,
        registration: Registration,
        subscriber: &Subscriber,
    ) -> Self {
        let ports = (free_port(), free_port());
        let endpoints = endpoints(registration, subscriber);
        let output = LogOutput::Captured;
        let service = launch(
            output,
            folder,
            &database_url,
            registration,
            &endpoints,
            ports,
        );
        Self {
            service,
            proxy,
            database_url,
            registration,
            endpoints,
            restarts: 0,
            peak_memory_kib: 0,
        }
    }

    fn end(&mut self, signal: &str) {
        self.peak_memory_kib = self.peak_memory_kib();
        self.service.signal(signal);
        let ended = self.service.wait();
        assert_eq!(
            ended.success(),
            signal == "-TERM",
            "unexpected exit status {ended}: {:?}",
            self.service.log()
        );
    }

    fn restart(&mut self, folder: &TempDir, output: LogOutput) {
        let ports = (self.service.port, self.service.ops_port);
        self.service = launch(
            output,
            folder,
            &self.database_url,
            self.registration,
            &self.endpoints,
            ports,
        );
        self.restarts += 1;
    }

    fn peak_memory_kib(&self) -> u64 {
        self.peak_memory_kib.max(self.service.peak_memory_kib())
    }
}

/// Returns one endpoint if the service inserts the images, otherwise none.
fn endpoints(registration: Registration, subscriber: &Subscriber) -> String {
    if registration == Registration::ByApp {
        return "[]".to_owned();
    }
    let app = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "max_in_flight": 2, "timeout_secs": 1,
        "include_models": ["cloudflare_images.CloudflareImage"], "retry": {"max_retries": 1000, "delay_secs": 0},
    });
    json!([app]).to_string()
}

fn launch(
    output: LogOutput,
    folder: &TempDir,
    database_url: &str,
    registration: Registration,
    endpoints: &str,
    (port, ops_port): (u16, u16),
) -> Service {
    let max_connections = MAX_CONNECTIONS.to_string();
    let mut variables = vec![
        ("DATABASE_URL", database_url),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__DATABASE__MAX_CONNECTIONS", &max_connections),
        ("APP__RELAY__ENDPOINTS", endpoints),
        // A broken output gets many lines.
        (
            "RUST_LOG",
            if output == LogOutput::Captured {
                "warn"
            } else {
                "debug"
            },
        ),
    ];
    if registration == Registration::ByService {
        variables.push(("APP__WEBHOOK__UNKNOWN_IMAGES", "create"));
    } else {
        variables.extend([
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
            ("APP__DATABASE__TIMEOUT_SECS", "3"),
            ("APP__SERVER__READ_TIMEOUT_SECS", "2"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "3"),
        ]);
    }
    Service::start_logging_to(output, folder.path(), &variables, (port, ops_port))
}

impl Scenario {
    /// Starts one service on SQLite.
    pub(crate) async fn on_sqlite(registration: Registration) -> Self {
        let database = Database::sqlite();
        let folder = TempDir::new().expect("a folder");
        let subscriber = Subscriber::start().await;
        let url = database.url.clone();
        let replica = Replica::start(&folder, url, None, registration, &subscriber);
        database.execute_script(REGRESSIONS_ON_SQLITE).await;
        Self::new(database, vec![replica], registration, subscriber, folder).await
    }

    /// Starts two replicas on their own Postgres, each behind a proxy.
    pub(crate) async fn on_postgres(registration: Registration) -> Self {
        let database = Database::postgres_own_server().await;
        let folder = TempDir::new().expect("a folder");
        let subscriber = Subscriber::start().await;
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let proxy = Proxy::in_front_of(&database.url).await;
            let url = proxy.url(&database.url);
            let proxy = Some(proxy);
            replicas.push(Replica::start(
                &folder,
                url,
                proxy,
                registration,
                &subscriber,
            ));
        }
        database.execute_script(REGRESSIONS_ON_POSTGRES).await;
        Self::new(database, replicas, registration, subscriber, folder).await
    }

    async fn new(
        database: Database,
        replicas: Vec<Replica>,
        registration: Registration,
        subscriber: Subscriber,
        folder: TempDir,
    ) -> Self {
        let mut scenario = Self {
            database,
            replicas,
            registration,
            subscriber,
            folder,
            baseline: (0, 0),
            rounds: 0,
        };
        scenario.baseline = (scenario.open_files(), scenario.tasks().await);
        scenario
    }

    /// Injects one fault under load, waits for recovery and compares the tables with the responses.
    pub(crate) async fn run_round(&mut self, fault: Fault) -> Row {
        self.rounds += 1;
        let prefix = format!("round-{}", self.rounds);
        let restarts = self.restarts();

        let load = self.start_load(&prefix);
        wait_for_progress(&load, fault, "the load runs").await;
        fault.inject(self, &load).await;
        wait_for_progress(&load, fault, "the service recovers").await;
        let images = load.end().await;
        self.wait_until_none_parked(fault).await;

        let comparison = compare(&self.database, &images, &prefix).await;
        assert!(
            fault != Fault::CommitRepliesLost || comparison.response_lost > 0,
            "no reply to COMMIT was lost"
        );
        let is_at_baseline = tokio::time::timeout(wait::WAIT_TIMEOUT, self.wait_for_baseline())
            .await
            .is_ok();
        let peaks = self.replicas.iter().map(Replica::peak_memory_kib);
        Row {
            database: if self.database.is_postgres() {
                "Postgres"
            } else {
                "SQLite"
            },
            fault,
            rounds: 1,
            comparison,
            restarts: self.restarts() - restarts,
            peak_memory_kib: peaks.max().expect("there is one"),
            files_at_start: self.baseline.0,
            files_at_end: self.open_files(),
            tasks_at_start: self.baseline.1,
            tasks_at_end: self.tasks().await,
            is_at_baseline,
        }
    }

    /// Runs a load without faults.
    pub(crate) async fn run_load(&self, prefix: &str) -> Vec<Image> {
        let load = self.start_load(prefix);
        wait_for_progress(&load, Fault::Nothing, "the load runs").await;
        let images = load.end().await;
        self.wait_until_none_parked(Fault::Nothing).await;
        images
    }

    /// Kills these services at the same time and restarts them.
    pub(crate) fn kill_and_restart(&mut self, range: std::ops::Range<usize>) {
        self.end_and_restart("-KILL", range, LogOutput::Captured);
    }

    /// Stops a service gracefully and restarts it.
    pub(crate) fn stop_and_restart(&mut self, number: usize) {
        self.stop_and_restart_logging_to(number, LogOutput::Captured);
    }

    /// Stops a service gracefully and restarts it with this log output.
    pub(crate) fn stop_and_restart_logging_to(&mut self, number: usize, output: LogOutput) {
        self.end_and_restart("-TERM", number..number + 1, output);
    }

    /// Returns the image whose event kills the services that send it.
    pub(crate) fn poison(&self) -> String {
        format!("poison-{}", self.rounds)
    }

    /// Sends the notification of the poison. Its event is due before all others.
    pub(crate) async fn insert_poison(&self) {
        let id = self.poison();
        let url = self.replicas[0].service.url();
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        let request = client().post(url).header("cf-webhook-auth", SECRET);
        assert_eq!(response_to(request.body(body)).await.status, 200);
        let events = format!("SELECT id FROM relay_events WHERE image = '{id}'");
        self.make_first_due(&format!("status = 'pending' AND event_id IN ({events})"))
            .await;
    }

    /// Expires every lease. Its delivery is then due before all others.
    pub(crate) async fn expire_leases(&self) {
        self.make_first_due("status = 'leased'").await;
    }

    async fn make_first_due(&self, condition: &str) {
        let due_at = "2000-01-01T00:00:00.000000Z";
        let sql = format!("UPDATE relay_deliveries SET due_at = '{due_at}' WHERE {condition}");
        self.database.execute(&sql, &[]).await;
    }

    /// Returns whether the service has its default timeouts. It then has no reason to fail a
    /// request while another replica stops.
    pub(crate) fn has_default_timeouts(&self) -> bool {
        self.registration == Registration::ByService
    }

    fn end_and_restart(&mut self, signal: &str, range: std::ops::Range<usize>, output: LogOutput) {
        let folder = &self.folder;
        let replicas = &mut self.replicas[range];
        tokio::task::block_in_place(|| {
            for replica in &mut *replicas {
                replica.end(signal);
            }
            for replica in replicas {
                replica.restart(folder, output);
            }
        });
    }

    fn start_load(&self, prefix: &str) -> Load {
        let urls = self.replicas.iter().map(|replica| replica.service.url());
        let urls: Vec<String> = urls.collect();
        Load::start(&urls, &self.database, self.registration, prefix)
    }

    /// Waits until all deliveries are done, including those leased by killed services. Checks that
    /// the subscriber received every event of every image.
    pub(crate) async fn assert_all_events_delivered(&self) {
        wait::until_async("all deliveries are done", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let due = "SELECT count(*) FROM relay_deliveries WHERE due_at IS NOT NULL";
            self.database.count(due).await == 0
        })
        .await;
        let without_events = "SELECT count(*) FROM cloudflare_images WHERE status <> 'pending'
            AND NOT EXISTS (SELECT 1 FROM relay_events WHERE image = cloudflare_id)";
        assert_eq!(
            self.database.count(without_events).await,
            0,
            "images without events"
        );
        let events = self.database.texts("SELECT id FROM relay_events").await;
        assert!(!events.is_empty());
        let received = self.subscriber.received();
        let received: HashSet<String> = received.iter().map(Received::event_id).collect();
        let lost: Vec<&String> = events.iter().filter(|id| !received.contains(*id)).collect();
        assert!(lost.is_empty(), "{} events were not delivered", lost.len());
    }

    fn restarts(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.restarts).sum()
    }

    fn open_files(&self) -> usize {
        let counts = self
            .replicas
            .iter()
            .map(|replica| replica.service.open_files());
        counts.sum()
    }

    /// Returns the number of tasks of all services.
    async fn tasks(&self) -> usize {
        let mut tasks = 0;
        for replica in &self.replicas {
            tasks += metric(&replica.service.ops_url("/metrics"), "tokio_alive_tasks").await;
        }
        usize::try_from(tasks).expect("a number of tasks")
    }

    async fn wait_until_none_parked(&self, fault: Fault) {
        let parked = "SELECT count(*) FROM webhook_rejections WHERE state = 'parked'";
        let what = format!("no notification is parked ({})", fault.name());
        wait::until_async(&what, async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.database.count(parked).await == 0
        })
        .await;
    }

    async fn wait_for_baseline(&self) {
        let allowed_growth = ALLOWED_GROWTH * self.replicas.len();
        let (files, tasks) = self.baseline;
        while self.open_files() > files + allowed_growth
            || self.tasks().await > tasks + allowed_growth
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Waits until more requests are acknowledged.
pub(crate) async fn wait_for_progress(load: &Load, fault: Fault, what: &str) {
    let before = load.acknowledged();
    let what = format!("{what} ({})", fault.name());
    wait::until_async(&what, async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        load.acknowledged() > before + PROGRESS_REQUESTS
    })
    .await;
}
