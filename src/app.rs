//! The composition root: settings in, a running service out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{Loaded, Settings};
use crate::ops::Ops;
use crate::receiver::{Parking, Receiver};
use crate::relay::Relay;
use crate::retention::Pruner;
use crate::setting::{InvalidSetting, Switch};
use crate::shutdown::{Ending, Stop};
use crate::store::{GroupCommit, Store};
use crate::telemetry::metrics::Metrics;
use crate::web::{self, Limits, Proxies, behind_layers};

/// How many probes are answered at once.
const MAX_OPS_CONNECTIONS: usize = 64;

/// How long a probe may take to ask, and how long its connection is kept.
const OPS_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of a run: whoever starts it owns the ports.
pub struct Listeners {
    /// For webhooks.
    pub webhook: TcpListener,
    /// For the platform.
    pub ops: TcpListener,
}

impl Listeners {
    /// Listens where the settings say.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let (webhook, ops) = (settings.server.listen.get(), settings.ops.listen.get());
        Ok(Self {
            webhook: TcpListener::bind(webhook).await.with_context(|| {
                format!("cannot listen on {webhook} (server.listen, APP__SERVER__LISTEN or PORT)")
            })?,
            ops: TcpListener::bind(ops).await.with_context(|| {
                format!("cannot listen on {ops} (ops.listen, APP__OPS__LISTEN)")
            })?,
        })
    }
}

/// Runs the service until it is asked to stop, or until a part of it ends by itself.
///
/// Fails when it cannot start. Whatever it is at, starting and closing included, it ends within the deadline.
pub async fn run(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    listeners: Listeners,
    stop: Stop,
) -> anyhow::Result<Ending> {
    let deadline = loaded.settings.shutdown.deadline_secs.seconds();
    let ending = tokio::select! {
        ending = run_to_the_end(loaded, clock, listeners, &stop) => ending?,
        () = stop.expired(deadline) => Ending::Forced,
    };
    match ending {
        Ending::Clean => tracing::info!("stopped"),
        Ending::Crashed => tracing::error!("stopped because a part of the service ended by itself"),
        Ending::Forced => tracing::error!("stopped before everything in flight was finished"),
    }
    Ok(ending)
}

async fn run_to_the_end(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    listeners: Listeners,
    stop: &Stop,
) -> anyhow::Result<Ending> {
    let (settings, endpoints) = (&loaded.settings, &loaded.endpoints);
    let store = tokio::select! {
        opened = Store::open(&settings.database, settings.webhook.unknown_images(), endpoints.audience().clone()) => opened?,
        () = stop.gently.cancelled() => return Ok(Ending::Clean),
    };
    let metrics = Arc::new(Metrics::default());
    let limits = settings.database.limits();
    let (inbox, writers) = GroupCommit::new(&store.inbox, limits, &metrics.inbox);
    let in_flight = TaskTracker::new();
    let invalid = |problem: InvalidSetting| anyhow::anyhow!("{} {}", problem.key, problem.rule);
    let receiver = Receiver::new(
        &settings.webhook,
        &settings.server,
        Arc::new(inbox),
        Arc::clone(&clock),
        in_flight.clone(),
    )
    .map_err(invalid)?;
    let relay_metrics = Arc::clone(&metrics);
    let parking_metrics = metrics.parking.clone();
    let mut parts = JoinSet::new();

    // The platform is answered while we migrate, and until the last webhook is done.
    let ops_stop = CancellationToken::new();
    let ops = Ops {
        schema: store.schema.clone(),
        accepts_everybody: receiver.verifier.is_open(),
        stopping: stop.gently.clone(),
        metrics,
    };
    let ops_limits = Limits {
        max_connections: MAX_OPS_CONNECTIONS,
        head_timeout: OPS_HEAD_TIMEOUT,
        keep_alive: OPS_HEAD_TIMEOUT,
    };
    let ops_address = listeners.ops.local_addr()?;
    parts.spawn(web::serve(
        listeners.ops,
        behind_layers(ops.router()),
        ops_limits,
        Proxies::default(),
        ops_stop.clone(),
        TaskTracker::new(),
    ));

    if settings.database.migrate_on_start == Switch::On {
        tokio::select! {
            migrated = store.schema.migrate() => migrated?,
            () = stop.gently.cancelled() => return Ok(Ending::Clean),
        }
    }

    // They stop last: what was taken in is written.
    let writers_stop = CancellationToken::new();
    for writer in writers {
        parts.spawn(writer.run(writers_stop.clone()));
    }

    let pruner = Pruner::new(
        store.retention.clone(),
        &settings.retention,
        Arc::clone(&clock),
    );
    parts.spawn(pruner.run(stop.gently.clone()));
    let relaying = Relay::new(endpoints.clone()).run(
        store.clone(),
        Arc::clone(&clock),
        relay_metrics,
        stop.gently.clone(),
    );
    parts.spawn(relaying);
    let parking = Parking::new(store.rejections.clone(), &settings.webhook, clock);
    parts.spawn(parking.run(parking_metrics, stop.gently.clone()));

    parts.spawn(Arc::clone(&receiver.admission).run(stop.gently.clone()));
    let refusal_counter = Arc::clone(&receiver.refusal_counter);
    parts.spawn(refusal_counter.run(store.rejections.clone(), writers_stop.clone()));

    let address = listeners.webhook.local_addr()?;
    announce(settings, address, ops_address, receiver.verifier.is_open());
    let limits = Limits {
        max_connections: settings.server.max_connections.count(),
        head_timeout: settings.server.read_timeout_secs.seconds(),
        keep_alive: settings.server.keep_alive_secs.seconds(),
    };
    let router = behind_layers(receiver.router(&settings.webhook.path));
    parts.spawn(web::serve(
        listeners.webhook,
        router,
        limits,
        settings.server.proxies(),
        stop.gently.clone(),
        in_flight.clone(),
    ));

    let ending = until_stopped(&mut parts, stop).await;
    in_flight.close();
    in_flight.wait().await;
    writers_stop.cancel();
    ops_stop.cancel();
    let ending = if any_panicked(&mut parts).await {
        Ending::Crashed
    } else {
        ending
    };
    store.close().await;
    Ok(ending)
}

fn announce(
    settings: &Settings,
    webhook: std::net::SocketAddr,
    ops: std::net::SocketAddr,
    accepts_everybody: bool,
) {
    if accepts_everybody {
        tracing::warn!(
            "no webhook secret is configured: every well-formed webhook is believed; set CLOUDFLARE_WEBHOOK_SECRET"
        );
    }
    let path = settings.webhook.path.canonical();
    let database = &settings.database.url;
    tracing::info!(%webhook, %ops, path, ?database, "listening for webhooks on http://{webhook}{path}");
}

/// Waits until the run is asked to stop. A part that ends by itself before that has crashed, and takes the others along.
async fn until_stopped(parts: &mut JoinSet<()>, stop: &Stop) -> Ending {
    // A part that was asked to stop may end before this task looks: being asked comes first.
    let ended = tokio::select! {
        biased;
        () = stop.gently.cancelled() => return Ending::Clean,
        ended = parts.join_next() => ended,
    };
    tracing::error!(?ended, "a part of the service ended by itself; stopping");
    stop.gently.cancel();
    Ending::Crashed
}

/// Waits for the parts, all of which have been asked to stop.
async fn any_panicked(parts: &mut JoinSet<()>) -> bool {
    let mut any_panicked = false;
    while let Some(ended) = parts.join_next().await {
        any_panicked |= ended.is_err();
    }
    any_panicked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_or_just_ends_stops_the_others_and_makes_the_run_a_failure() {
        for crash in [true, false] {
            let stop = Stop::default();
            let mut parts = JoinSet::new();
            let asked = stop.gently.clone();
            parts.spawn(async move { asked.cancelled().await });
            parts.spawn(async move { assert!(!crash, "on purpose") });

            let ending = until_stopped(&mut parts, &stop).await;

            assert_eq!((ending, ending.exit_code()), (Ending::Crashed, 1));
            assert!(
                !any_panicked(&mut parts).await,
                "the other was asked to stop, and did"
            );
        }
    }

    #[tokio::test]
    async fn a_part_that_ends_because_it_was_asked_to_has_not_crashed() {
        let stop = Stop::default();
        let mut parts = JoinSet::new();
        parts.spawn(async {});
        stop.gently.cancel();
        tokio::task::yield_now().await;

        assert_eq!(until_stopped(&mut parts, &stop).await, Ending::Clean);
    }

    #[tokio::test]
    async fn a_panic_while_stopping_is_not_overlooked() {
        let mut parts = JoinSet::new();
        parts.spawn(async { panic!("on purpose") });

        assert!(any_panicked(&mut parts).await);
    }
}
