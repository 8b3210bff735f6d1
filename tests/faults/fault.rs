//! Faults, and how to inject them.

use std::time::Duration;

use super::clients;
use super::load::Load;
use super::scenario::{Scenario, wait_for_progress};
use crate::support::app::client;
use crate::support::database::Database;
use crate::support::mutation::Prng;
use crate::support::program::{LogOutput, open_files_limit};
use crate::support::proxy::NetworkCondition;
use crate::support::wait;

/// The minimum duration of a fault.
const FAULT_DURATION: Duration = Duration::from_secs(1);

/// The delay of a slow network, in each direction.
const LATENCY: Duration = Duration::from_millis(20);

/// The bytes of a file that can still be written when the disk is full.
const WRITABLE_BYTES: u64 = 64 * 1024;

/// The number of readiness probes while the pool is exhausted.
const PROBES: usize = 50;

/// The number of kills per fault.
const KILLS: usize = 3;

/// The longest time before a kill.
const MAX_LIFETIME: Duration = Duration::from_millis(600);

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Nothing,
    ServiceStopped,
    ServiceKilled,
    EveryServiceKilled,
    DatabaseKilled,
    DatabaseFrozen,
    DatabaseUnreachable,
    StatementsTruncated,
    CommitRepliesLost,
    ConnectionsBlackholed,
    NetworkSlow,
    DiskFull,
    WalDeleted,
    FilesExhausted,
    PoolExhausted,
    LogDiskFull,
    LogPipeClosed,
    LogPipeUnread,
    HeadersFlooding,
    ClientsSlow,
    ClientsDisconnecting,
    PoisonRow,
}

impl Fault {
    /// Returns the faults that this database supports, `Nothing` first.
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
                Self::StatementsTruncated,
                Self::CommitRepliesLost,
                Self::ConnectionsBlackholed,
                Self::NetworkSlow,
                Self::FilesExhausted,
                Self::PoolExhausted,
                Self::LogDiskFull,
                Self::LogPipeClosed,
                Self::LogPipeUnread,
                Self::HeadersFlooding,
                Self::ClientsSlow,
                Self::ClientsDisconnecting,
            ]
        } else {
            &[
                Self::Nothing,
                Self::ServiceStopped,
                Self::ServiceKilled,
                Self::DiskFull,
                Self::FilesExhausted,
                Self::PoolExhausted,
                Self::LogDiskFull,
                Self::LogPipeClosed,
                Self::LogPipeUnread,
                Self::HeadersFlooding,
                Self::ClientsSlow,
                Self::ClientsDisconnecting,
            ]
        }
    }

    /// Returns the fault's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing breaks",
            Self::ServiceStopped => "one service stopped",
            Self::ServiceKilled => "one service killed",
            Self::EveryServiceKilled => "every service killed",
            Self::DatabaseKilled => "database killed",
            Self::DatabaseFrozen => "database frozen",
            Self::DatabaseUnreachable => "database unreachable",
            Self::StatementsTruncated => "statements truncated",
            Self::CommitRepliesLost => "replies to COMMIT lost",
            Self::ConnectionsBlackholed => "connections open without traffic",
            Self::NetworkSlow => "network slow",
            Self::DiskFull => "disk full",
            Self::WalDeleted => "write-ahead log deleted",
            Self::FilesExhausted => "out of file descriptors",
            Self::PoolExhausted => "tables locked, pool exhausted",
            Self::LogDiskFull => "disk of the log full",
            Self::LogPipeClosed => "pipe of the log closed",
            Self::LogPipeUnread => "pipe of the log not read",
            Self::HeadersFlooding => "flood of headers",
            Self::ClientsSlow => "clients slow",
            Self::ClientsDisconnecting => "clients disconnect",
            Self::PoisonRow => "poison row",
        }
    }

    /// Returns the faults for a scenario whose service inserts the images and publishes events, so no other program writes.
    pub(crate) fn of_publishing_service(database: &Database) -> &'static [Self] {
        if database.is_postgres() {
            &[Self::ServiceStopped, Self::ServiceKilled, Self::PoisonRow]
        } else {
            &[
                Self::ServiceStopped,
                Self::ServiceKilled,
                Self::PoisonRow,
                Self::WalDeleted,
            ]
        }
    }

    /// Injects the fault under load, checks that it had an effect, and removes it.
    pub(crate) async fn inject(self, scenario: &mut Scenario, load: &Load) {
        match self {
            Self::Nothing => tokio::time::sleep(FAULT_DURATION).await,
            Self::ServiceStopped => {
                let before = load.error_responses();
                scenario.stop_and_restart(0);
                assert!(
                    load.error_responses() == before || !scenario.has_default_timeouts(),
                    "requests failed during a graceful stop"
                );
            }
            Self::ServiceKilled => {
                for _ in 0..KILLS {
                    wait_random_time().await;
                    scenario.kill_and_restart(0..1);
                }
            }
            Self::EveryServiceKilled => {
                for _ in 0..KILLS {
                    wait_random_time().await;
                    scenario.kill_and_restart(0..scenario.replicas.len());
                }
            }
            Self::DatabaseKilled => {
                let cluster = scenario
                    .database
                    .cluster
                    .as_ref()
                    .expect("the scenario has its own server");
                for _ in 0..KILLS {
                    wait_random_time().await;
                    tokio::task::block_in_place(|| {
                        cluster.kill();
                        cluster.restart();
                    });
                }
            }
            Self::DatabaseFrozen => {
                let cluster = scenario
                    .database
                    .cluster
                    .as_ref()
                    .expect("the scenario has its own server");
                cluster.freeze();
                wait_until_failing(load, self).await;
                cluster.thaw();
            }
            Self::DatabaseUnreachable => {
                inject_network_condition(scenario, load, NetworkCondition::Refused, self).await;
            }
            Self::StatementsTruncated => {
                inject_network_condition(scenario, load, NetworkCondition::TruncatedRequests, self)
                    .await;
            }
            Self::CommitRepliesLost => {
                inject_network_condition(scenario, load, NetworkCondition::LostCommitReplies, self)
                    .await;
            }
            Self::ConnectionsBlackholed => {
                for replica in &scenario.replicas {
                    replica.proxy.as_ref().expect("a proxy").blackhole();
                }
                wait_until_failing(load, self).await;
            }
            Self::NetworkSlow => {
                set_network_condition(scenario, NetworkCondition::Delayed(LATENCY));
                wait_for_progress(load, self, "requests succeed on the slow network").await;
                set_network_condition(scenario, NetworkCondition::Normal);
            }
            Self::DiskFull => fill_disk(scenario, load).await,
            Self::WalDeleted => delete_wal(scenario, load).await,
            Self::FilesExhausted => exhaust_files(scenario).await,
            Self::PoolExhausted => exhaust_pool(scenario, load).await,
            Self::LogDiskFull => break_log(scenario, load, self, LogOutput::FullDisk).await,
            Self::LogPipeClosed => break_log(scenario, load, self, LogOutput::ClosedPipe).await,
            Self::LogPipeUnread => break_log(scenario, load, self, LogOutput::UnreadPipe).await,
            Self::HeadersFlooding => {
                for replica in &scenario.replicas {
                    let flood = clients::flood_with_headers(replica.service.port).await;
                    wait_for_progress(load, self, "other clients are served").await;
                    drop(flood);
                }
            }
            Self::ClientsSlow => {
                for replica in &scenario.replicas {
                    let slow = clients::open_slow(replica.service.port, FAULT_DURATION).await;
                    wait_for_progress(load, self, "other clients are served").await;
                    drop(slow);
                }
            }
            Self::PoisonRow => {
                let poison = scenario.poison();
                for kill in 0..KILLS {
                    scenario.subscriber.stall_on(&poison);
                    if kill == 0 {
                        scenario.insert_poison().await;
                    }
                    scenario.subscriber.wait_until_stalled().await;
                    scenario.kill_and_restart(0..scenario.replicas.len());
                    scenario.expire_leases().await;
                }
                scenario.subscriber.stop_stalling();
            }
            Self::ClientsDisconnecting => {
                for replica in &scenario.replicas {
                    clients::connect_and_disconnect(replica.service.port).await;
                }
            }
        }
    }
}

/// Restarts a service with a broken log output. Afterwards the service must stop as cleanly as usual.
async fn break_log(scenario: &mut Scenario, load: &Load, fault: Fault, output: LogOutput) {
    scenario.stop_and_restart_logging_to(0, output);
    tokio::time::sleep(FAULT_DURATION).await;
    wait_for_progress(load, fault, "requests succeed without the log").await;
    scenario.stop_and_restart(0);
}

/// Waits for a random time, because a kill must not always hit the same moment.
async fn wait_random_time() {
    let micros =
        Prng::from_entropy().below(usize::try_from(MAX_LIFETIME.as_micros()).expect("small"));
    tokio::time::sleep(Duration::from_micros(u64::try_from(micros).expect("small"))).await;
}

/// Waits for the minimum duration and until requests fail.
async fn wait_until_failing(load: &Load, fault: Fault) {
    let before = load.failed_requests();
    tokio::time::sleep(FAULT_DURATION).await;
    let what = format!("requests fail ({})", fault.name());
    wait::until_async(&what, async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        load.failed_requests() > before
    })
    .await;
}

fn set_network_condition(scenario: &Scenario, condition: NetworkCondition) {
    for replica in &scenario.replicas {
        replica.proxy.as_ref().expect("a proxy").set(condition);
    }
}

async fn inject_network_condition(
    scenario: &Scenario,
    load: &Load,
    condition: NetworkCondition,
    fault: Fault,
) {
    set_network_condition(scenario, condition);
    wait_until_failing(load, fault).await;
    set_network_condition(scenario, NetworkCondition::Normal);
}

/// Limits the file size. Only the first pages of each file can still be written.
async fn fill_disk(scenario: &Scenario, load: &Load) {
    let service = &scenario.replicas[0].service;
    service.set_limit(&format!("--fsize={WRITABLE_BYTES}:"));
    wait_until_failing(load, Fault::DiskFull).await;
    service.set_limit("--fsize=unlimited:");
}

/// Deletes SQLite's write-ahead log, with acknowledged webhooks in it.
async fn delete_wal(scenario: &Scenario, load: &Load) {
    for _ in 0..KILLS {
        let file = scenario.database.url.strip_prefix("sqlite://");
        let wal = format!("{}-wal", file.expect("a file"));
        std::fs::remove_file(wal).expect("the file exists");
        wait_until_failing(load, Fault::WalDeleted).await;
        wait_for_progress(load, Fault::WalDeleted, "the database is open again").await;
    }
}

/// Limits the open files. The service can neither accept clients nor open database connections.
async fn exhaust_files(scenario: &Scenario) {
    for replica in &scenario.replicas {
        let service = &replica.service;
        let limit_before = open_files_limit(&service.id().to_string());
        let accept_errors = || {
            service
                .log()
                .iter()
                .filter(|line| line.contains("cannot accept a connection"))
                .count()
        };
        let errors_before = accept_errors();

        service.set_limit(&format!("--nofile={}:", service.open_files()));
        // Open connections continue to work. Only new clients notice the limit.
        let mut clients = Vec::new();
        wait::until_async("a connection cannot be accepted", async || {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clients.push(clients::connect_and_send(service.port, "").await);
            accept_errors() > errors_before
        })
        .await;
        tokio::time::sleep(FAULT_DURATION).await;
        service.set_limit(&format!("--nofile={limit_before}:"));
    }
}

/// Locks the tables as another program would, and sends readiness probes.
async fn exhaust_pool(scenario: &Scenario, load: &Load) {
    let lock = scenario.database.lock_tables().await;
    let mut probes = tokio::task::JoinSet::new();
    for number in 0..PROBES {
        let replica = &scenario.replicas[number % scenario.replicas.len()];
        probes.spawn(client().get(replica.service.ops_url("/readyz")).send());
    }
    wait_until_failing(load, Fault::PoolExhausted).await;
    lock.release().await;
    let mut not_ready = 0;
    for answered in probes.join_all().await {
        let answered = answered.expect("each probe gets a response");
        not_ready += usize::from(answered.status() == 503);
    }
    assert!(
        not_ready > 0,
        "no probe reported that the service is not ready"
    );
}
