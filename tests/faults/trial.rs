//! The service under load, on one database, while things break.

use std::time::Duration;

use tempfile::TempDir;

use super::fault::Fault;
use super::ledger::{Image, verdict};
use super::load::Load;
use super::table::Row;
use crate::support::app::client;
use crate::support::cluster::free_port;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::proxy::Proxy;
use crate::support::signing::SECRET;
use crate::support::wait;

/// The load is on, or has recovered, when so many more requests were acknowledged.
const SOME: u64 = 100;

/// How many files and tasks one service may have more than before, when nothing goes on any more: connections that its pools
/// have opened meanwhile.
const SLACK: usize = 12;

/// One service, and how to start it again.
pub(crate) struct Replica {
    /// The process.
    pub(crate) service: Service,
    /// What stands between it and Postgres.
    pub(crate) proxy: Option<Proxy>,
    database_url: String,
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
    folder: TempDir,
    rounds: u64,
}

impl Replica {
    fn start(folder: &TempDir, database_url: String, proxy: Option<Proxy>) -> Self {
        let service = launch(folder, &database_url, free_port(), free_port());
        Self {
            service,
            proxy,
            database_url,
            restarts: 0,
            peak_memory_kib: 0,
        }
    }

    /// Ends it by this signal, and starts it again where it was.
    fn end_and_restart(&mut self, signal: &str, folder: &TempDir) {
        self.peak_memory_kib = self.peak_memory_kib();
        self.service.signal(signal);
        let ended = self.service.wait();
        assert_eq!(
            ended.success(),
            signal == "-TERM",
            "it ends with {ended}: {:?}",
            self.service.log()
        );
        let (port, ops_port) = (self.service.port, self.service.ops_port);
        self.service = launch(folder, &self.database_url, port, ops_port);
        self.restarts += 1;
    }

    fn peak_memory_kib(&self) -> u64 {
        self.peak_memory_kib.max(self.service.peak_memory_kib())
    }
}

fn launch(folder: &TempDir, database_url: &str, port: u16, ops_port: u16) -> Service {
    let variables = [
        ("DATABASE_URL", database_url),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
        ("APP__DATABASE__TIMEOUT_SECS", "3"),
        ("APP__SERVER__READ_TIMEOUT_SECS", "2"),
        ("APP__SERVER__KEEP_ALIVE_SECS", "3"),
        ("RUST_LOG", "warn"),
    ];
    Service::start_on(folder.path(), &variables, port, ops_port)
}

impl Trial {
    /// One service on SQLite.
    pub(crate) fn on_sqlite() -> Self {
        let database = Database::sqlite();
        let folder = TempDir::new().expect("a folder");
        let replica = Replica::start(&folder, database.url.clone(), None);
        Self::of(database, vec![replica], folder)
    }

    /// Two replicas on a Postgres of their own, each behind a proxy.
    pub(crate) async fn on_postgres() -> Self {
        let database = Database::postgres_of_its_own().await;
        let folder = TempDir::new().expect("a folder");
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let proxy = Proxy::before(&database.url).await;
            let url = proxy.url(&database.url);
            replicas.push(Replica::start(&folder, url, Some(proxy)));
        }
        Self::of(database, replicas, folder)
    }

    fn of(database: Database, replicas: Vec<Replica>, folder: TempDir) -> Self {
        Self {
            database,
            replicas,
            folder,
            rounds: 0,
        }
    }

    /// Lets one thing break under load and become well again, and looks what has become of what was sent.
    pub(crate) async fn round(&mut self, fault: Fault) -> Row {
        self.rounds += 1;
        let prefix = format!("round-{}", self.rounds);
        let (files_at_start, tasks_at_start) = (self.open_files(), self.tasks().await);
        let restarts = self.restarts();

        let load = Load::start(&self.urls(), &self.database, &prefix);
        recovery(&load, fault, "the load is on").await;
        fault.strike(self, &load).await;
        recovery(&load, fault, "it recovers by itself").await;
        let images = load.end().await;
        self.until_nothing_is_parked(fault).await;

        let verdict = verdict(&self.database, &images, &prefix).await;
        let has_settled =
            tokio::time::timeout(wait::PATIENCE, self.settled(files_at_start, tasks_at_start));
        let has_settled = has_settled.await.is_ok();
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
            peak_memory_kib: self
                .replicas
                .iter()
                .map(Replica::peak_memory_kib)
                .max()
                .unwrap_or_default(),
            files_at_start,
            files_at_end: self.open_files(),
            tasks_at_start,
            tasks_at_end: self.tasks().await,
            has_settled,
        }
    }

    /// What is sent while nothing breaks.
    pub(crate) async fn load(&self, prefix: &str) -> Vec<Image> {
        let load = Load::start(&self.urls(), &self.database, prefix);
        recovery(&load, Fault::Nothing, "the load is on").await;
        let images = load.end().await;
        self.until_nothing_is_parked(Fault::Nothing).await;
        images
    }

    /// Kills a service, and starts it again.
    pub(crate) fn kill_and_restart(&mut self, number: usize) {
        self.end_and_restart("-KILL", number);
    }

    /// Asks a service to stop, and starts it again.
    pub(crate) fn stop_and_restart(&mut self, number: usize) {
        self.end_and_restart("-TERM", number);
    }

    fn end_and_restart(&mut self, signal: &str, number: usize) {
        let folder = &self.folder;
        let replica = &mut self.replicas[number];
        tokio::task::block_in_place(|| replica.end_and_restart(signal, folder));
    }

    fn restarts(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.restarts).sum()
    }

    fn urls(&self) -> Vec<String> {
        self.replicas
            .iter()
            .map(|replica| replica.service.url())
            .collect()
    }

    fn open_files(&self) -> usize {
        self.replicas
            .iter()
            .map(|replica| replica.service.open_files())
            .sum()
    }

    /// The tasks of all services, as they count them.
    async fn tasks(&self) -> usize {
        let mut tasks = 0;
        for replica in &self.replicas {
            tasks += metric(&replica.service, "runtime_tasks").await;
        }
        tasks
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

    async fn settled(&self, files: usize, tasks: usize) {
        let slack = SLACK * self.replicas.len();
        while self.open_files() > files + slack || self.tasks().await > tasks + slack {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn recovery(load: &Load, fault: Fault, what: &str) {
    let before = load.acknowledged();
    let what = format!("{what} ({})", fault.name());
    wait::until_async(&what, async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        load.acknowledged() > before + SOME
    })
    .await;
}

/// One number of those that the service counts.
pub(crate) async fn metric(service: &Service, name: &str) -> usize {
    let answer = client().get(service.ops_url("/metrics")).send().await;
    let text = answer.expect("an answer").text().await.expect("a text");
    let start = format!("cloudflare_images_webhook_{name} ");
    let number = text.lines().find_map(|line| line.strip_prefix(&start));
    number
        .expect("it is counted")
        .parse()
        .expect("a whole number")
}
