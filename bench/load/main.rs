//! The load benchmark: webhooks per second of the whole service. `make bench` runs it, and RESULTS.md has the last complete run.
//!
//! Two references are measured next to each row, because other load on the machine changes its speed: HTTP without a database, and
//! pgbench. After each row, the benchmark fails unless the audit log has exactly one entry per acknowledged webhook.
//!
//! Words on the command line select rows: `cargo bench --bench load -- postgres 256 envelope`. `sqlite jq` selects the relay with jq
//! programs. The variable `TEST_PROGRAM` is the path of another build, to compare two builds.

#[path = "../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the specification uses the other functions")]
mod support;

mod flood;
mod pgbench;
mod relay;
mod report;
mod sequential;
mod subscriber;
mod webhooks;
mod wrk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tempfile::TempDir;
use tokio::task::{JoinSet, spawn_blocking};

use flood::FloodResult;
use report::{Report, Row};
use subscriber::{Behavior, Subscriber};
use support::cluster::{Cluster, Durability};
use support::database::Database;
use support::pooler::Pooler;
use support::program::Service;
use support::signing::SECRET;
use webhooks::{Shape, Signature, Webhooks};
use wrk::{WhenExhausted, send};

/// The duration of each row's measurement.
const ROW_DURATION: Duration = Duration::from_secs(8);

/// The duration of each reference measurement: pgbench before the row, the ceiling before and after the row.
const REFERENCE_DURATION: Duration = Duration::from_secs(4);

/// The numbers of clients that pgbench runs with.
const PGBENCH_CLIENTS: [usize; 2] = [1, 32];

/// The default number of images.
const IMAGES: usize = 100_000;

/// More webhooks than can be sent during a row.
const WEBHOOKS: usize = 1_000_000;

/// More webhooks than can be sent during one of the flood's measurements.
const FLOOD_WEBHOOKS: usize = 400_000;

/// Counts the applied webhooks.
const COUNT_APPLIED: &str =
    "SELECT count(*) FROM cloudflare_image_logs WHERE event_type = 'webhook_received'";

/// The number of different requests in the ceiling measurement. They are too many for the CPU's caches.
const CEILING_WEBHOOKS: usize = 20_000;

/// The number of images that are inserted in one transaction.
const IMAGES_PER_TRANSACTION: usize = 10_000;

/// The settings that Postgres's documentation recommends for a server of this size. Its defaults are for a small one.
const POSTGRES_SETTINGS: [&str; 3] = [
    "shared_buffers = '2GB'",
    "max_wal_size = '8GB'",
    "checkpoint_timeout = '30min'",
];

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    runtime.block_on(run(&filters));
}

async fn run(filters: &[String]) {
    let folder = TempDir::with_prefix("images-webhook-bench-").expect("a temporary folder");
    let bench = Bench::prepare(folder.path()).await;
    let is_selected = |words: &[String]| filters.iter().all(|filter| words.contains(filter));

    let mut report = Report::default();
    for kind in [DatabaseKind::Sqlite, DatabaseKind::Postgres] {
        let row = |connections, images, shape| Plan {
            kind,
            connections,
            images,
            shape,
        };
        let plans = [
            row(1, IMAGES, Shape::Envelope),
            row(16, IMAGES, Shape::Envelope),
            row(64, IMAGES, Shape::Envelope),
            row(256, IMAGES, Shape::Envelope),
            row(256, IMAGES, Shape::Flat),
            row(64, 10_000, Shape::Envelope),
            row(64, 1_000_000, Shape::Envelope),
        ];
        for plan in plans {
            if is_selected(&plan.words()) {
                report.add_row(bench.row(plan).await);
            }
        }
        if is_selected(&[kind.name().to_owned(), "sequential".to_owned()]) {
            let database = bench.database(kind).await;
            report.add_sequential(kind.name(), sequential::measure(&database).await);
        }
        if is_selected(&[kind.name().to_owned(), "flood".to_owned()]) {
            report.add_flood(kind.name(), bench.flood(kind).await);
        }
        if is_selected(&[kind.name().to_owned(), "relay".to_owned()]) {
            let relay = relay::measure(bench.folder, async || bench.database(kind).await).await;
            let cost = bench.publishing_cost(kind).await;
            report.add_relay(kind.name(), relay, cost);
        }
        if is_selected(&[kind.name().to_owned(), "relay".to_owned(), "jq".to_owned()]) {
            let jq = relay::measure_jq(bench.folder, async || bench.database(kind).await).await;
            report.add_jq(kind.name(), jq);
        }
    }
    let behind_pooler = Plan {
        kind: DatabaseKind::PostgresBehindPooler,
        connections: 64,
        images: IMAGES,
        shape: Shape::Envelope,
    };
    if is_selected(&behind_pooler.words()) {
        report.add_row(bench.row(behind_pooler).await);
    }
    if filters.is_empty() {
        report.write();
    } else {
        report.print();
    }
}

/// The rate of received webhooks while events are published, divided by the rate without publishing.
pub(crate) struct PublishingCost {
    /// With one endpoint that receives each event.
    pub(crate) with_endpoint: f64,
    /// With a Postgres channel and one listener. `None` on SQLite.
    pub(crate) with_channel: Option<f64>,
}

/// The parameters of a row.
#[derive(Clone, Copy)]
struct Plan {
    kind: DatabaseKind,
    connections: usize,
    images: usize,
    shape: Shape,
}

impl Plan {
    /// Returns the words that select the row on the command line.
    fn words(self) -> Vec<String> {
        vec![
            self.kind.name().to_owned(),
            self.connections.to_string(),
            format!("{}-images", self.images),
            self.shape.name().to_owned(),
        ]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DatabaseKind {
    Sqlite,
    Postgres,
    /// Behind `PgBouncer` in transaction mode.
    PostgresBehindPooler,
}

impl DatabaseKind {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::PostgresBehindPooler => "pgbouncer",
        }
    }
}

struct Bench<'a> {
    folder: &'a Path,
    cluster: Cluster,
    pooler: Pooler,
}

impl<'a> Bench<'a> {
    async fn prepare(folder: &'a Path) -> Self {
        let cluster = Cluster::start(Durability::Fsync);
        let database = Database::postgres_on(&cluster).await;
        for setting in POSTGRES_SETTINGS {
            database
                .execute(&format!("ALTER SYSTEM SET {setting}"), &[])
                .await;
        }
        cluster.stop();
        cluster.restart();
        let pooler = Pooler::start_for(&cluster.url("postgres"), "transaction", "");
        Self {
            folder,
            cluster,
            pooler,
        }
    }

    async fn database(&self, kind: DatabaseKind) -> Database {
        match kind {
            DatabaseKind::Sqlite => Database::sqlite(),
            DatabaseKind::Postgres | DatabaseKind::PostgresBehindPooler => {
                Database::postgres_on(&self.cluster).await
            }
        }
    }

    async fn row(&self, plan: Plan) -> Row {
        let Plan {
            kind,
            connections,
            images,
            shape,
        } = plan;
        let pgbench = self.pgbench_for(kind).await;
        let database = self.database(kind).await;
        let service = self.service_of(kind, &database);
        register(&database, images).await;
        let (valid, wrong) = self.write_webhooks(images, shape);

        let ceiling = || {
            let url = service.url();
            send(
                &url,
                &wrong,
                connections,
                REFERENCE_DURATION,
                WhenExhausted::Repeat,
            )
        };
        let before = ceiling();
        let sent = send(
            &service.url(),
            &valid,
            connections,
            ROW_DURATION,
            WhenExhausted::Fail,
        );
        let peak_memory = peak_memory_bytes(service.id());
        let after = ceiling();
        // The higher rate counts. Other load on the machine lowered the other one.
        let ceiling = if before.rate > after.rate {
            before
        } else {
            after
        };

        assert_eq!(sent.refused, 0, "every webhook is about a registered image");
        assert_eq!(
            ceiling.acknowledged, 0,
            "requests with a wrong signature are refused"
        );
        let logged = database.count(COUNT_APPLIED).await;
        assert_eq!(
            u64::try_from(logged),
            Ok(sent.acknowledged),
            "every acknowledged webhook has one audit log entry"
        );
        Row {
            database: kind.name(),
            connections,
            images,
            shape,
            sent,
            ceiling,
            pgbench,
            peak_memory,
        }
    }

    /// Measures pgbench, the reference of the rows on Postgres.
    async fn pgbench_for(&self, kind: DatabaseKind) -> Vec<f64> {
        let mut results = Vec::new();
        if kind != DatabaseKind::Sqlite {
            for clients in PGBENCH_CLIENTS {
                results.push(self.pgbench(clients).await);
            }
        }
        results
    }

    /// Writes the row's webhooks, and requests with a wrong signature for the ceiling. Returns the two files.
    fn write_webhooks(&self, images: usize, shape: Shape) -> (PathBuf, PathBuf) {
        let (valid, wrong) = (self.folder.join("valid"), self.folder.join("wrong"));
        let webhooks = Webhooks {
            count: WEBHOOKS,
            rounds_before: 0,
            images,
            shape,
            signature: Signature::Valid,
        };
        webhooks.write(&valid);
        Webhooks {
            count: CEILING_WEBHOOKS,
            signature: Signature::Wrong,
            ..webhooks
        }
        .write(&wrong);
        (valid, wrong)
    }

    async fn flood(&self, kind: DatabaseKind) -> FloodResult {
        let database = self.database(kind).await;
        let service = self.service(&database);
        register(&database, IMAGES).await;
        let files = ["first", "second", "third", "wrong"].map(|name| self.folder.join(name));
        let webhooks = Webhooks {
            count: FLOOD_WEBHOOKS,
            rounds_before: 0,
            images: IMAGES,
            shape: Shape::Envelope,
            signature: Signature::Valid,
        };
        for (number, file) in files[..3].iter().enumerate() {
            Webhooks {
                rounds_before: number * FLOOD_WEBHOOKS.div_ceil(IMAGES),
                ..webhooks
            }
            .write(file);
        }
        // Both senders read files of the same size, so they begin and end at the same time.
        Webhooks {
            signature: Signature::Wrong,
            ..webhooks
        }
        .write(&files[3]);

        let flood = flood::measure(&service, [&files[0], &files[1], &files[2]], &files[3]);

        let logged = database.count(COUNT_APPLIED).await;
        assert_eq!(
            u64::try_from(logged),
            Ok(flood.acknowledged),
            "every acknowledged webhook has one audit log entry"
        );
        flood
    }

    /// Measures the cost of publishing. Each rate is the better one of two measurements in turns.
    async fn publishing_cost(&self, kind: DatabaseKind) -> PublishingCost {
        let file = self.folder.join("valid");
        Webhooks {
            count: FLOOD_WEBHOOKS,
            rounds_before: 0,
            images: IMAGES,
            shape: Shape::Envelope,
            signature: Signature::Valid,
        }
        .write(&file);
        let (mut baseline, mut with_endpoint, mut with_channel) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..2 {
            baseline = baseline.max(self.receive_rate(kind, &file, "[]", "").await);

            let subscriber = Subscriber::start(Behavior::Fast);
            let endpoints = relay::endpoints(&[("good", &subscriber)]);
            let rate = self.receive_rate(kind, &file, &endpoints, "").await;
            with_endpoint = with_endpoint.max(rate);

            if kind == DatabaseKind::Postgres {
                let rate = self.receive_rate(kind, &file, "[]", "images_changed").await;
                with_channel = with_channel.max(rate);
            }
        }
        PublishingCost {
            with_endpoint: with_endpoint / baseline,
            with_channel: (kind == DatabaseKind::Postgres).then_some(with_channel / baseline),
        }
    }

    /// Returns the webhooks per second while the service publishes to these endpoints, and to this channel unless it is empty.
    async fn receive_rate(
        &self,
        kind: DatabaseKind,
        file: &Path,
        endpoints: &str,
        channel: &str,
    ) -> f64 {
        let database = self.database(kind).await;
        let service = relay::service(self.folder, &database, endpoints, channel);
        register(&database, IMAGES).await;
        let mut listening = JoinSet::new();
        if !channel.is_empty() {
            let mut listener = PgListener::connect(&database.url)
                .await
                .expect("Postgres accepts connections");
            listener
                .listen(channel)
                .await
                .expect("the channel name is valid");
            listening.spawn(async move { while listener.recv().await.is_ok() {} });
        }
        let (url, file) = (service.url(), file.to_owned());
        let sending =
            spawn_blocking(move || send(&url, &file, 64, ROW_DURATION, WhenExhausted::Fail));
        let sent = sending.await.expect("no panic");
        assert_eq!(sent.refused, 0, "every webhook is acknowledged");
        sent.rate
    }

    fn service_of(&self, kind: DatabaseKind, database: &Database) -> Service {
        match kind {
            DatabaseKind::Sqlite | DatabaseKind::Postgres => self.service(database),
            DatabaseKind::PostgresBehindPooler => self.service_at(&self.pooler.url(database)),
        }
    }

    fn service(&self, database: &Database) -> Service {
        self.service_at(&database.url)
    }

    fn service_at(&self, database_url: &str) -> Service {
        let variables = [
            ("DATABASE_URL", database_url),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("RUST_LOG", "warn"),
        ];
        Service::start(self.folder, &variables)
    }

    async fn pgbench(&self, clients: usize) -> f64 {
        let database = self.database(DatabaseKind::Postgres).await;
        drop(self.service(&database));
        register(&database, IMAGES).await;
        let rate = pgbench::rate(&database.url, IMAGES, clients, REFERENCE_DURATION);
        let logged = database
            .count("SELECT count(*) FROM cloudflare_image_logs")
            .await;
        assert!(logged > 0, "pgbench writes audit log entries");
        rate
    }
}

/// Inserts the images one by one, as an app does. Then runs the maintenance that a database does over time.
async fn register(database: &Database, images: usize) {
    let numbers: Vec<usize> = (1..=images).collect();
    for numbers in numbers.chunks(IMAGES_PER_TRANSACTION) {
        let inserts = numbers.iter().map(|number| {
            let id = webhooks::image_id(*number);
            format!("INSERT INTO cloudflare_images (cloudflare_id) VALUES ('{id}');")
        });
        let script: String = inserts.collect();
        database
            .execute_script(&format!("BEGIN; {script} COMMIT;"))
            .await;
    }
    if database.is_postgres() {
        database
            .execute("VACUUM ANALYZE cloudflare_images", &[])
            .await;
        database.execute("CHECKPOINT", &[]).await;
    } else {
        database
            .execute("PRAGMA wal_checkpoint(TRUNCATE)", &[])
            .await;
    }
}

/// Returns the peak memory of a process in bytes, from `/proc`.
fn peak_memory_bytes(process: u32) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    1024 * kilobytes.expect("/proc has VmHWM")
}
