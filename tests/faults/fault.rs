//! What can break, and how it is broken.

use std::time::Duration;

use super::clients;
use super::load::Load;
use super::scenario::{Trial, recovery};
use crate::support::app::client;
use crate::support::database::Database;
use crate::support::mutation::Numbers;
use crate::support::program::may_open;
use crate::support::proxy::Weather;
use crate::support::wait;

/// How long something is broken at least.
const MOMENT: Duration = Duration::from_secs(1);

/// How much later everything comes over a slow network, each way.
const LATENCY: Duration = Duration::from_millis(20);

/// What can still be written of a file when the disk is full.
const FIRST_PAGES_BYTES: u64 = 64 * 1024;

/// How many ask whether the service is ready while its pool is exhausted.
const PROBES: usize = 50;

/// How many times something is killed.
const KILLS: usize = 3;

/// The longest that it lives before that.
const LONGEST_LIFE: Duration = Duration::from_millis(600);

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    ServiceStopped,
    ServiceKilled,
    EveryServiceKilled,
    DatabaseKilled,
    DatabaseFrozen,
    DatabaseUnreachable,
    StatementsCutInTwo,
    AnswersUnheard,
    ConnectionsSilent,
    NetworkSlow,
    DiskFull,
    FilesExhausted,
    PoolExhausted,
    ClientsSlow,
    ClientsVanishing,
}

impl Fault {
    /// What can break on this database, nothing first.
    pub(crate) fn of(database: &Database) -> &'static [Self] {
        if database.is_postgres() {
            &[
                Self::Nothing,
                Self::ServiceStopped,
                Self::ServiceKilled,
                Self::EveryServiceKilled,
                Self::DatabaseKilled,
                Self::DatabaseFrozen,
                Self::DatabaseUnreachable,
                Self::StatementsCutInTwo,
                Self::AnswersUnheard,
                Self::ConnectionsSilent,
                Self::NetworkSlow,
                Self::FilesExhausted,
                Self::PoolExhausted,
                Self::ClientsSlow,
                Self::ClientsVanishing,
            ]
        } else {
            &[
                Self::Nothing,
                Self::ServiceStopped,
                Self::ServiceKilled,
                Self::DiskFull,
                Self::FilesExhausted,
                Self::PoolExhausted,
                Self::ClientsSlow,
                Self::ClientsVanishing,
            ]
        }
    }

    /// A word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing breaks",
            Self::ServiceStopped => "one service stopped",
            Self::ServiceKilled => "one service killed",
            Self::EveryServiceKilled => "every service killed",
            Self::DatabaseKilled => "database killed",
            Self::DatabaseFrozen => "database frozen",
            Self::DatabaseUnreachable => "database unreachable",
            Self::StatementsCutInTwo => "statements cut in two",
            Self::AnswersUnheard => "database's answers lost",
            Self::ConnectionsSilent => "connections dead, but open",
            Self::NetworkSlow => "network slow",
            Self::DiskFull => "disk takes nothing more",
            Self::FilesExhausted => "out of file descriptors",
            Self::PoolExhausted => "tables locked, pool exhausted",
            Self::ClientsSlow => "clients a byte a second",
            Self::ClientsVanishing => "clients vanish",
        }
    }

    /// Breaks it under this load, makes sure that this was felt, and mends it.
    pub(crate) async fn strike(self, trial: &mut Trial, load: &Load) {
        match self {
            Self::Nothing => tokio::time::sleep(MOMENT).await,
            Self::ServiceStopped => {
                let before = load.failures();
                trial.stop_and_restart(0);
                assert!(
                    load.failures() == before || !trial.is_patient(),
                    "whoever got an answer got a good one"
                );
            }
            Self::ServiceKilled => {
                for _ in 0..KILLS {
                    a_life().await;
                    trial.kill_and_restart(0..1);
                }
            }
            Self::EveryServiceKilled => {
                for _ in 0..KILLS {
                    a_life().await;
                    trial.kill_and_restart(0..trial.replicas.len());
                }
            }
            Self::DatabaseKilled => {
                let cluster = trial
                    .database
                    .cluster
                    .as_ref()
                    .expect("a server of its own");
                for _ in 0..KILLS {
                    a_life().await;
                    tokio::task::block_in_place(|| {
                        cluster.kill();
                        cluster.restart();
                    });
                }
            }
            Self::DatabaseFrozen => {
                let cluster = trial
                    .database
                    .cluster
                    .as_ref()
                    .expect("a server of its own");
                cluster.freeze();
                felt(load, self).await;
                cluster.thaw();
            }
            Self::DatabaseUnreachable => weather(trial, load, Weather::Closed, self).await,
            Self::StatementsCutInTwo => weather(trial, load, Weather::CutOff, self).await,
            Self::AnswersUnheard => weather(trial, load, Weather::Unheard, self).await,
            Self::ConnectionsSilent => {
                for replica in &trial.replicas {
                    replica.proxy.as_ref().expect("a proxy").silence();
                }
                felt(load, self).await;
            }
            Self::NetworkSlow => {
                set(trial, Weather::Late(LATENCY));
                recovery(load, self, "it goes on, slowly").await;
                set(trial, Weather::Fair);
            }
            Self::DiskFull => disk_full(trial, load).await,
            Self::FilesExhausted => files_exhausted(trial).await,
            Self::PoolExhausted => pool_exhausted(trial, load).await,
            Self::ClientsSlow => {
                for replica in &trial.replicas {
                    let slow = clients::slow(replica.service.port, MOMENT).await;
                    recovery(load, self, "the others are served meanwhile").await;
                    drop(slow);
                }
            }
            Self::ClientsVanishing => {
                for replica in &trial.replicas {
                    clients::vanishing(replica.service.port).await;
                }
            }
        }
    }
}

/// A life of random length: the moment of a kill is to be no particular one.
async fn a_life() {
    let micros =
        Numbers::at_random().below(usize::try_from(LONGEST_LIFE.as_micros()).expect("small"));
    tokio::time::sleep(Duration::from_micros(u64::try_from(micros).expect("small"))).await;
}

/// Waits until requests have failed of it, and a moment at least.
async fn felt(load: &Load, fault: Fault) {
    let before = load.troubles();
    tokio::time::sleep(MOMENT).await;
    let what = format!("it is felt ({})", fault.name());
    wait::until_async(&what, async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        load.troubles() > before
    })
    .await;
}

fn set(trial: &Trial, weather: Weather) {
    for replica in &trial.replicas {
        replica.proxy.as_ref().expect("a proxy").set(weather);
    }
}

async fn weather(trial: &Trial, load: &Load, weather: Weather, fault: Fault) {
    set(trial, weather);
    felt(load, fault).await;
    set(trial, Weather::Fair);
}

/// The disk takes nothing more: only what is in the first pages of a file can be written anew.
async fn disk_full(trial: &Trial, load: &Load) {
    let service = &trial.replicas[0].service;
    service.limit(&format!("--fsize={FIRST_PAGES_BYTES}:"));
    felt(load, Fault::DiskFull).await;
    service.limit("--fsize=unlimited:");
}

/// Nothing more can be opened: neither a connection of a client nor one to the database.
async fn files_exhausted(trial: &Trial) {
    for replica in &trial.replicas {
        let service = &replica.service;
        let usual = may_open(&service.id().to_string());
        let could_not = || {
            service
                .log()
                .iter()
                .filter(|line| line.contains("could not be accepted"))
                .count()
        };
        let noticed_before = could_not();

        service.limit(&format!("--nofile={}:", service.open_files()));
        // What is connected already is served on: it takes new clients to notice.
        let mut clients = Vec::new();
        wait::until_async("a connection cannot be accepted", async || {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clients.push(clients::say(service.port, "").await);
            could_not() > noticed_before
        })
        .await;
        tokio::time::sleep(MOMENT).await;
        service.limit(&format!("--nofile={usual}:"));
    }
}

/// Another program has locked the tables, and everybody asks whether the service is ready.
async fn pool_exhausted(trial: &Trial, load: &Load) {
    let lock = trial.database.hold_everything().await;
    let mut probes = tokio::task::JoinSet::new();
    for number in 0..PROBES {
        let replica = &trial.replicas[number % trial.replicas.len()];
        probes.spawn(client().get(replica.service.ops_url("/readyz")).send());
    }
    felt(load, Fault::PoolExhausted).await;
    lock.release().await;
    let mut not_ready = 0;
    for answered in probes.join_all().await {
        let answered = answered.expect("each probe is answered");
        not_ready += usize::from(answered.status() == 503);
    }
    assert!(not_ready > 0, "and some of them with what was wrong");
}
