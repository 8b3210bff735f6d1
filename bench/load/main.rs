//! How many webhooks a second the service takes, on this machine, beside what the machine could do without a database, and
//! what its Postgres does with one event in a transaction. `make bench` runs it; RESULTS.md has the last whole run.
//!
//! Everything is measured in one run, side by side, since a figure alone says little about a machine that others use too.
//! After each row the database is counted: every acknowledged webhook is in it, once, or the run fails.

#[path = "../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the specification uses the rest")]
mod support;

mod flood;
mod pgbench;
mod relay;
mod report;
mod single;
mod subscriber;
mod webhooks;
mod wrk;

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tempfile::TempDir;
use tokio::task::{JoinSet, spawn_blocking};

use flood::Flood;
use report::{Report, Row};
use subscriber::{Manner, Subscriber};
use support::cluster::{Cluster, Durability};
use support::database::Database;
use support::program::Service;
use support::signing::SECRET;
use webhooks::{Shape, Signature, Webhooks};
use wrk::{AtTheEnd, send};

/// How long each row is measured.
const TIME: Duration = Duration::from_secs(8);

/// How long that is measured which a row is compared with: pgbench right before it, the ceiling before and after it.
const BESIDE_TIME: Duration = Duration::from_secs(4);

/// With how many clients pgbench runs.
const PGBENCH_CLIENTS: [usize; 2] = [1, 32];

/// How many images there are, unless a row says otherwise.
const IMAGES: usize = 100_000;

/// More webhooks than are sent in the time of a row.
const WEBHOOKS: usize = 1_000_000;

/// More webhooks than are sent in the time of a part of the flood's row.
const FLOOD_WEBHOOKS: usize = 400_000;

/// How many webhooks were applied.
const APPLIED: &str =
    "SELECT count(*) FROM cloudflare_image_logs WHERE event_type = 'webhook_received'";

/// Enough that no cache is all there is to the ceiling.
const WRONG_WEBHOOKS: usize = 20_000;

/// How many images are inserted in one transaction.
const IMAGES_PER_TRANSACTION: usize = 10_000;

/// What Postgres's documentation recommends for a server of this size, where the defaults are for the smallest.
const POSTGRES_SETTINGS: [&str; 3] = [
    "shared_buffers = '2GB'",
    "max_wal_size = '8GB'",
    "checkpoint_timeout = '30min'",
];

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    runtime.block_on(run(&only));
}

async fn run(only: &[String]) {
    let folder = TempDir::with_prefix("images-webhook-bench-").expect("a temporary folder");
    let bench = Bench::prepare(folder.path()).await;
    let is_wanted = |words: &[String]| only.iter().all(|word| words.contains(word));

    let mut report = Report::default();
    for kind in [Kind::Sqlite, Kind::Postgres] {
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
            if is_wanted(&plan.words()) {
                report.row(bench.row(plan).await);
            }
        }
        if is_wanted(&[kind.name().to_owned(), "single".to_owned()]) {
            let database = bench.database(kind).await;
            report.single(kind.name(), single::measure(&database).await);
        }
        if is_wanted(&[kind.name().to_owned(), "flood".to_owned()]) {
            report.flood(kind.name(), bench.flood(kind).await);
        }
        if is_wanted(&[kind.name().to_owned(), "relay".to_owned()]) {
            let relayed = relay::measure(bench.folder, async || bench.database(kind).await).await;
            let receiving = bench.receiving(kind).await;
            report.relay(kind.name(), relayed, receiving);
        }
    }
    if only.is_empty() {
        report.write();
    } else {
        report.print();
    }
}

/// Which parts of the webhooks are still received.
pub(crate) struct Received {
    /// While one endpoint is told of each.
    pub(crate) told: f64,
    /// While Postgres says each on a channel, to one listener.
    pub(crate) said: Option<f64>,
}

/// A row to be measured.
#[derive(Clone, Copy)]
struct Plan {
    kind: Kind,
    connections: usize,
    images: usize,
    shape: Shape,
}

impl Plan {
    /// What picks it out on the command line.
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
enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

struct Bench<'a> {
    folder: &'a Path,
    cluster: Cluster,
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
        Self { folder, cluster }
    }

    async fn database(&self, kind: Kind) -> Database {
        match kind {
            Kind::Sqlite => Database::sqlite(),
            Kind::Postgres => Database::postgres_on(&self.cluster).await,
        }
    }

    async fn row(&self, plan: Plan) -> Row {
        let Plan {
            kind,
            connections,
            images,
            shape,
        } = plan;
        let mut pgbench = Vec::new();
        if kind == Kind::Postgres {
            for clients in PGBENCH_CLIENTS {
                pgbench.push(self.pgbench(clients).await);
            }
        }
        let database = self.database(kind).await;
        let service = self.service(&database);
        register(&database, images).await;
        let (right, wrong) = (self.folder.join("right"), self.folder.join("wrong"));
        let webhooks = Webhooks {
            count: WEBHOOKS,
            rounds_before: 0,
            images,
            shape,
            signature: Signature::Right,
        };
        webhooks.write(&right);
        Webhooks {
            count: WRONG_WEBHOOKS,
            signature: Signature::Wrong,
            ..webhooks
        }
        .write(&wrong);

        let ceiling = || {
            let url = service.url();
            send(&url, &wrong, connections, BESIDE_TIME, AtTheEnd::Again)
        };
        let before = ceiling();
        let sent = send(&service.url(), &right, connections, TIME, AtTheEnd::Fail);
        let peak_memory = peak_memory_bytes(service.id());
        let after = ceiling();
        // The higher: whatever else the machine did, it lowered the other.
        let ceiling = if before.rate > after.rate {
            before
        } else {
            after
        };

        assert_eq!(
            sent.refused, 0,
            "every webhook is for an image that is there"
        );
        assert_eq!(
            ceiling.acknowledged, 0,
            "nobody without the secret changes anything"
        );
        let logged = database.count(APPLIED).await;
        assert_eq!(
            u64::try_from(logged),
            Ok(sent.acknowledged),
            "every acknowledged webhook is in the audit trail, once"
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

    async fn flood(&self, kind: Kind) -> Flood {
        let database = self.database(kind).await;
        let service = self.service(&database);
        register(&database, IMAGES).await;
        let files = ["first", "second", "third", "wrong"].map(|name| self.folder.join(name));
        let webhooks = Webhooks {
            count: FLOOD_WEBHOOKS,
            rounds_before: 0,
            images: IMAGES,
            shape: Shape::Envelope,
            signature: Signature::Right,
        };
        for (number, file) in files[..3].iter().enumerate() {
            Webhooks {
                rounds_before: number * FLOOD_WEBHOOKS.div_ceil(IMAGES),
                ..webhooks
            }
            .write(file);
        }
        // As many, so that both senders have read them at the same time, and begin and end together.
        Webhooks {
            signature: Signature::Wrong,
            ..webhooks
        }
        .write(&files[3]);

        let flood = flood::measure(&service, [&files[0], &files[1], &files[2]], &files[3]);

        let logged = database.count(APPLIED).await;
        assert_eq!(
            u64::try_from(logged),
            Ok(flood.acknowledged),
            "every acknowledged webhook is in the audit trail, once"
        );
        flood
    }

    /// Which part of the webhooks is still taken when one endpoint is told of each, and when each is said on a channel. Alternately, twice.
    async fn receiving(&self, kind: Kind) -> Received {
        let file = self.folder.join("right");
        Webhooks {
            count: FLOOD_WEBHOOKS,
            rounds_before: 0,
            images: IMAGES,
            shape: Shape::Envelope,
            signature: Signature::Right,
        }
        .write(&file);
        let (mut alone, mut told, mut said) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..2 {
            alone = alone.max(self.received(kind, &file, "[]", "").await);

            let subscriber = Subscriber::start(Manner::Good, false);
            let endpoints = relay::endpoints(&[("good", &subscriber)]);
            told = told.max(self.received(kind, &file, &endpoints, "").await);

            if kind == Kind::Postgres {
                said = said.max(self.received(kind, &file, "[]", "images_changed").await);
            }
        }
        Received {
            told: told / alone,
            said: (kind == Kind::Postgres).then_some(said / alone),
        }
    }

    /// How many webhooks a second are taken while these endpoints are told, and while somebody listens to that channel.
    async fn received(&self, kind: Kind, file: &Path, endpoints: &str, channel: &str) -> f64 {
        let database = self.database(kind).await;
        let service = relay::service(self.folder, &database, endpoints, channel);
        register(&database, IMAGES).await;
        let mut listening = JoinSet::new();
        if !channel.is_empty() {
            let mut listener = PgListener::connect(&database.url)
                .await
                .expect("it answers");
            listener.listen(channel).await.expect("it listens");
            listening.spawn(async move { while listener.recv().await.is_ok() {} });
        }
        let (url, file) = (service.url(), file.to_owned());
        let sending = spawn_blocking(move || send(&url, &file, 64, TIME, AtTheEnd::Fail));
        let sent = sending.await.expect("no panic");
        assert_eq!(sent.refused, 0, "every webhook is acknowledged");
        sent.rate
    }

    fn service(&self, database: &Database) -> Service {
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("RUST_LOG", "warn"),
        ];
        Service::start(self.folder, &variables)
    }

    async fn pgbench(&self, clients: usize) -> f64 {
        let database = self.database(Kind::Postgres).await;
        drop(self.service(&database));
        register(&database, IMAGES).await;
        let rate = pgbench::rate(&database.url, IMAGES, clients, BESIDE_TIME);
        let logged = database
            .count("SELECT count(*) FROM cloudflare_image_logs")
            .await;
        assert!(logged > 0, "pgbench's event is written");
        rate
    }
}

/// Inserts the images one by one, as an app does, and leaves the tables as a database does that had time to tidy up.
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

/// The most memory that the process ever had, as Linux says.
fn peak_memory_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    1024 * kilobytes.expect("Linux says so")
}
