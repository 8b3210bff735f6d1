//! The service under load, on one database, while things break.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::fault::Fault;
use super::ledger::{Image, verdict};
use super::load::{Load, Registering};
use super::table::Row;
use crate::support::app::metric;
use crate::support::cluster::free_port;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::proxy::Proxy;
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

/// The load is on, or has recovered, when so many more requests were acknowledged.
pub(crate) const SOME: u64 = 100;

/// How many connections to Postgres one service may have.
const MAX_CONNECTIONS: usize = 3;

/// How many files and tasks one service may have more, when nothing goes on any more, than when nothing had gone on yet:
/// connections that its pools have opened meanwhile.
const SLACK: usize = 2 * MAX_CONNECTIONS;

/// Where changes are noted that move an image back in time, whatever they are healed by later.
const WITNESS_ON_SQLITE: &str = "
    CREATE TABLE went_back (cloudflare_id TEXT);
    CREATE TRIGGER went_back AFTER UPDATE ON cloudflare_images WHEN NEW.status_at < OLD.status_at BEGIN
        INSERT INTO went_back VALUES (NEW.cloudflare_id);
    END;";
const WITNESS_ON_POSTGRES: &str = "
    CREATE TABLE went_back (cloudflare_id text);
    CREATE FUNCTION went_back() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO went_back VALUES (NEW.cloudflare_id); RETURN NEW; END';
    CREATE TRIGGER went_back AFTER UPDATE ON cloudflare_images FOR EACH ROW WHEN (NEW.status_at < OLD.status_at)
        EXECUTE FUNCTION went_back();";

/// One service, and how to start it again.
pub(crate) struct Replica {
    /// The process.
    pub(crate) service: Service,
    /// What stands between it and Postgres.
    pub(crate) proxy: Option<Proxy>,
    database_url: String,
    registering: Registering,
    /// Who is told, as a variable of the environment.
    endpoints: String,
    /// How often it was started again.
    restarts: u64,
    /// The most memory that it, or one before it, ever had.
    peak_memory_kib: u64,
}

/// A database, and what runs on it.
pub(crate) struct Trial {
    /// The database, reached directly.
    pub(crate) database: Database,
    /// One service on SQLite, two replicas on Postgres.
    pub(crate) replicas: Vec<Replica>,
    registering: Registering,
    /// Another app, which is told of every image that the service inserts.
    subscriber: Subscriber,
    folder: TempDir,
    /// How many files and tasks there were when nothing had gone on yet.
    at_first: (usize, usize),
    rounds: u64,
}

impl Replica {
    fn start(
        folder: &TempDir,
        database_url: String,
        proxy: Option<Proxy>,
        registering: Registering,
        subscriber: &Subscriber,
    ) -> Self {
        let ports = (free_port(), free_port());
        let endpoints = endpoints(registering, subscriber);
        let service = launch(folder, &database_url, registering, &endpoints, ports);
        Self {
            service,
            proxy,
            database_url,
            registering,
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
            "it ends with {ended}: {:?}",
            self.service.log()
        );
    }

    fn restart(&mut self, folder: &TempDir) {
        let ports = (self.service.port, self.service.ops_port);
        self.service = launch(
            folder,
            &self.database_url,
            self.registering,
            &self.endpoints,
            ports,
        );
        self.restarts += 1;
    }

    fn peak_memory_kib(&self) -> u64 {
        self.peak_memory_kib.max(self.service.peak_memory_kib())
    }
}

/// One that is told of images, where the service inserts them; else nobody.
fn endpoints(registering: Registering, subscriber: &Subscriber) -> String {
    if registering == Registering::ByAnApp {
        return "[]".to_owned();
    }
    let app = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "max_in_flight": 2, "timeout_secs": 1,
        "include_models": ["cloudflare_images.CloudflareImage"], "retry": {"max_retries": 1000, "delay_secs": 0},
    });
    json!([app]).to_string()
}

fn launch(
    folder: &TempDir,
    database_url: &str,
    registering: Registering,
    endpoints: &str,
    (port, ops_port): (u16, u16),
) -> Service {
    let max_connections = MAX_CONNECTIONS.to_string();
    let mut variables = vec![
        ("DATABASE_URL", database_url),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__DATABASE__MAX_CONNECTIONS", &max_connections),
        ("APP__RELAY__ENDPOINTS", endpoints),
        ("RUST_LOG", "warn"),
    ];
    if registering == Registering::ByTheService {
        variables.push(("APP__WEBHOOK__UNKNOWN_IMAGES", "create"));
    } else {
        variables.extend([
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
            ("APP__DATABASE__TIMEOUT_SECS", "3"),
            ("APP__SERVER__READ_TIMEOUT_SECS", "2"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "3"),
        ]);
    }
    Service::start_on(folder.path(), &variables, port, ops_port)
}

impl Trial {
    /// One service on SQLite.
    pub(crate) async fn on_sqlite(registering: Registering) -> Self {
        let database = Database::sqlite();
        let folder = TempDir::new().expect("a folder");
        let subscriber = Subscriber::start().await;
        let url = database.url.clone();
        let replica = Replica::start(&folder, url, None, registering, &subscriber);
        database.execute_script(WITNESS_ON_SQLITE).await;
        Self::of(database, vec![replica], registering, subscriber, folder).await
    }

    /// Two replicas on a Postgres of their own, each behind a proxy.
    pub(crate) async fn on_postgres(registering: Registering) -> Self {
        let database = Database::postgres_of_its_own().await;
        let folder = TempDir::new().expect("a folder");
        let subscriber = Subscriber::start().await;
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let proxy = Proxy::before(&database.url).await;
            let url = proxy.url(&database.url);
            let proxy = Some(proxy);
            replicas.push(Replica::start(
                &folder,
                url,
                proxy,
                registering,
                &subscriber,
            ));
        }
        database.execute_script(WITNESS_ON_POSTGRES).await;
        Self::of(database, replicas, registering, subscriber, folder).await
    }

    async fn of(
        database: Database,
        replicas: Vec<Replica>,
        registering: Registering,
        subscriber: Subscriber,
        folder: TempDir,
    ) -> Self {
        let mut trial = Self {
            database,
            replicas,
            registering,
            subscriber,
            folder,
            at_first: (0, 0),
            rounds: 0,
        };
        trial.at_first = (trial.open_files(), trial.tasks().await);
        trial
    }

    /// Lets one thing break under load and become well again, and looks what has become of what was sent.
    pub(crate) async fn round(&mut self, fault: Fault) -> Row {
        self.rounds += 1;
        let prefix = format!("round-{}", self.rounds);
        let restarts = self.restarts();

        let load = self.start_load(&prefix);
        recovery(&load, fault, "the load is on").await;
        fault.strike(self, &load).await;
        recovery(&load, fault, "it recovers by itself").await;
        let images = load.end().await;
        self.until_nothing_is_parked(fault).await;

        let verdict = verdict(&self.database, &images, &prefix).await;
        assert!(
            fault != Fault::AnswersUnheard || verdict.unheard > 0,
            "no commit's answer was lost"
        );
        let has_settled = tokio::time::timeout(wait::PATIENCE, self.settled())
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
            verdict,
            restarts: self.restarts() - restarts,
            peak_memory_kib: peaks.max().expect("there is one"),
            files_at_first: self.at_first.0,
            files_at_end: self.open_files(),
            tasks_at_first: self.at_first.1,
            tasks_at_end: self.tasks().await,
            has_settled,
        }
    }

    /// What is sent while nothing breaks.
    pub(crate) async fn load(&self, prefix: &str) -> Vec<Image> {
        let load = self.start_load(prefix);
        recovery(&load, Fault::Nothing, "the load is on").await;
        let images = load.end().await;
        self.until_nothing_is_parked(Fault::Nothing).await;
        images
    }

    /// Kills these services at the same time, and starts them again.
    pub(crate) fn kill_and_restart(&mut self, which: std::ops::Range<usize>) {
        self.end_and_restart("-KILL", which);
    }

    /// Asks a service to stop, and starts it again.
    pub(crate) fn stop_and_restart(&mut self, number: usize) {
        self.end_and_restart("-TERM", number..number + 1);
    }

    /// Whether the service has its usual patience, and so no reason to fail anything while another replica stops.
    pub(crate) fn is_patient(&self) -> bool {
        self.registering == Registering::ByTheService
    }

    fn end_and_restart(&mut self, signal: &str, which: std::ops::Range<usize>) {
        let folder = &self.folder;
        let replicas = &mut self.replicas[which];
        tokio::task::block_in_place(|| {
            for replica in &mut *replicas {
                replica.end(signal);
            }
            for replica in replicas {
                replica.restart(folder);
            }
        });
    }

    fn start_load(&self, prefix: &str) -> Load {
        let urls = self.replicas.iter().map(|replica| replica.service.url());
        let urls: Vec<String> = urls.collect();
        Load::start(&urls, &self.database, self.registering, prefix)
    }

    /// Waits until everything is told, leases of those who were killed included, and holds every event of every image to have come.
    pub(crate) async fn everything_is_told(&self) {
        wait::until_async("everything is told", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let due = "SELECT count(*) FROM relay_deliveries WHERE due_at IS NOT NULL";
            self.database.count(due).await == 0
        })
        .await;
        let hidden_columns = "SELECT count(*) FROM cloudflare_images WHERE status <> 'pending'
            AND NOT EXISTS (SELECT 1 FROM relay_events WHERE image = cloudflare_id)";
        assert_eq!(
            self.database.count(hidden_columns).await,
            0,
            "each image has events"
        );
        let events = self.database.texts("SELECT id FROM relay_events").await;
        assert!(!events.is_empty());
        let received = self.subscriber.received();
        let received: HashSet<String> = received.iter().map(Received::event_id).collect();
        let lost: Vec<&String> = events.iter().filter(|id| !received.contains(*id)).collect();
        assert!(lost.is_empty(), "{} events never came", lost.len());
    }

    fn restarts(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.restarts).sum()
    }

    fn open_files(&self) -> usize {
        let of_each = self
            .replicas
            .iter()
            .map(|replica| replica.service.open_files());
        of_each.sum()
    }

    /// The tasks of all services, as they count them.
    async fn tasks(&self) -> usize {
        let mut tasks = 0;
        for replica in &self.replicas {
            tasks += metric(&replica.service.ops_url("/metrics"), "tokio_alive_tasks").await;
        }
        usize::try_from(tasks).expect("a number of tasks")
    }

    async fn until_nothing_is_parked(&self, fault: Fault) {
        let parked = "SELECT count(*) FROM webhook_rejections WHERE state = 'parked'";
        let what = format!("nothing is parked any more ({})", fault.name());
        wait::until_async(&what, async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.database.count(parked).await == 0
        })
        .await;
    }

    async fn settled(&self) {
        let slack = SLACK * self.replicas.len();
        let (files, tasks) = self.at_first;
        while self.open_files() > files + slack || self.tasks().await > tasks + slack {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Waits until more is acknowledged.
pub(crate) async fn recovery(load: &Load, fault: Fault, what: &str) {
    let before = load.acknowledged();
    let what = format!("{what} ({})", fault.name());
    wait::until_async(&what, async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        load.acknowledged() > before + SOME
    })
    .await;
}
