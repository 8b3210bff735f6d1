//! kill -9 at random moments under load: every 200 that a client saw is in the database, once.
//!
//! How many times each is killed is taken from `KILLS`, by default 3; `make kills` asks for 20.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::app::client;
use crate::support::cluster::free_port;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::variable;

const SENDERS: u64 = 16;

/// The longest that a process runs before it is killed.
const LONGEST_LIFE: Duration = Duration::from_millis(600);

fn kills() -> u32 {
    variable("KILLS").map_or(3, |kills| kills.parse().expect("KILLS is a number"))
}

/// The length of a life, different each time.
fn random_life() -> Duration {
    let random = uuid::Uuid::new_v4().as_u128();
    let longest = LONGEST_LIFE.as_micros();
    Duration::from_micros(u64::try_from(random % longest).expect("less than a second"))
}

/// Senders that report one new image after another, and remember what was acknowledged.
pub(crate) struct Load {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    failures: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    senders: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(url: &str) -> Self {
        let (acknowledged, is_over) = (
            Arc::<Mutex<BTreeSet<String>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let failures = Arc::<AtomicU64>::default();
        let next = Arc::<AtomicU64>::default();
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(send(
                client(),
                url.to_owned(),
                next.clone(),
                acknowledged.clone(),
                failures.clone(),
                is_over.clone(),
            ));
        }
        Self {
            acknowledged,
            failures,
            is_over,
            senders,
        }
    }

    /// How many answers were no 200.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) async fn end(self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.senders.join_all().await;
        std::mem::take(&mut *self.acknowledged.lock().expect("no panic"))
    }
}

async fn send(
    client: Client,
    url: String,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    failures: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) {
    while !is_over.load(Ordering::Relaxed) {
        let id = format!("image-{}", next.fetch_add(1, Ordering::Relaxed));
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        // As Cloudflare would, until it is acknowledged: the answer of a commit may be lost, and the commit not.
        while !is_over.load(Ordering::Relaxed) {
            let answer = client
                .post(&url)
                .header("cf-webhook-auth", SECRET)
                .body(body.clone())
                .send()
                .await;
            match answer {
                Ok(answer) if answer.status() == 200 => {
                    acknowledged.lock().expect("no panic").insert(id);
                    break;
                }
                Ok(answer) => {
                    assert_eq!(
                        answer.status(),
                        500,
                        "short of a kill nothing else is answered"
                    );
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

/// Every acknowledged image has its row and one row of the audit trail.
pub(crate) async fn assert_nothing_is_lost(database: &Database, acknowledged: &BTreeSet<String>) {
    let uploaded: BTreeSet<String> = database
        .texts("SELECT cloudflare_id FROM cloudflare_images WHERE status = 'uploaded'")
        .await
        .into_iter()
        .collect();
    let logged = database.texts("SELECT image.cloudflare_id FROM cloudflare_image_logs AS log JOIN cloudflare_images AS image ON image.id = log.image_id WHERE log.event_type = 'webhook_received'").await;
    let logged_once: BTreeSet<String> = logged.iter().cloned().collect();

    assert_eq!(
        acknowledged.difference(&uploaded).next(),
        None,
        "acknowledged, and not in the table"
    );
    assert_eq!(
        acknowledged.difference(&logged_once).next(),
        None,
        "acknowledged, and not in the audit trail"
    );
    assert_eq!(logged.len(), logged_once.len(), "applied twice");
    assert_eq!(uploaded.len(), logged_once.len(), "a row without its trail");
    let count = acknowledged.len();
    let _shown_where_it_is_asked_for = writeln!(
        std::io::stderr(),
        "{count} acknowledged, all stored, each once"
    );
    assert!(
        acknowledged.len() > 10,
        "the load was no load: {}",
        acknowledged.len()
    );
}

pub(crate) fn variables(database: &Database) -> [(&str, &str); 4] {
    [
        ("DATABASE_URL", &database.url),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
        ("RUST_LOG", "error"),
    ]
}

async fn the_service_is_killed(database: Database) {
    let folder = TempDir::new().expect("a folder");
    let (port, ops_port) = (free_port(), free_port());
    let mut service = Service::start_on(folder.path(), &variables(&database), port, ops_port);
    let load = Load::start(&service.url());

    for _ in 0..kills() {
        // Not a wait for an effect: the moment has to be a random one.
        tokio::time::sleep(random_life()).await;
        service.signal("-KILL");
        service.wait();
        service = Service::start_on(folder.path(), &variables(&database), port, ops_port);
    }
    tokio::time::sleep(random_life()).await;

    assert_nothing_is_lost(&database, &load.end().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_service_on_sqlite() {
    the_service_is_killed(Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_service_on_postgres() {
    the_service_is_killed(Database::postgres_of_its_own().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_postgres_under_the_service() {
    let database = Database::postgres_of_its_own().await;
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &variables(&database));
    let load = Load::start(&service.url());
    let cluster = database.cluster.as_ref().expect("a server of its own");

    for _ in 0..kills() {
        tokio::time::sleep(random_life()).await;
        cluster.kill();
        tokio::task::block_in_place(|| cluster.restart());
    }
    tokio::time::sleep(random_life()).await;

    assert_nothing_is_lost(&database, &load.end().await).await;
}
