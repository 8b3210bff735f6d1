//! The composition root: builds the parts of the service from the settings, and runs each as a named task.

mod file_limit;
mod listeners;
mod log_trial;
mod reconciliation;
mod servers;
mod supervisor;
mod tasks;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api};
use crate::application::Context;
use crate::clock::Clock;
use crate::cloudflare::Client;
use crate::config::{Loaded, Settings};
use crate::config_types::InvalidSetting;
use crate::receiver::Receiver;
use crate::reconcile::Reconciler;
use crate::relay::{Relay, StopTokens};
use crate::retention::Pruner;
use crate::shutdown::{ExitReason, Shutdown};
use crate::store::{GroupCommit, Store, Writer};
use crate::telemetry::metrics::Metrics;
use crate::web::{LineLimiter, Server};

pub use listeners::Listeners;
use servers::{OPS_LIMITS, Servers};
use supervisor::Supervisor;
use tasks::Tasks;

/// The name of the task that accepts webhooks.
const WEBHOOK_LISTENER: &str = "webhook listener";

/// Runs the service until shutdown, or until one of its tasks ends unexpectedly.
///
/// Fails if the service cannot start. After a request to shut down, it returns within the deadline, even during start and close.
pub async fn run(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> anyhow::Result<ExitReason> {
    let deadline = loaded.settings.shutdown.deadline_secs.seconds();
    let progress = Progress::default();
    let exit_reason = tokio::select! {
        exit_reason = run_service(loaded, clock, listeners, &shutdown, &progress) => exit_reason?,
        () = shutdown.deadline_reached(deadline) => progress.exit_reason_at_deadline(),
    };
    match exit_reason {
        ExitReason::Clean => tracing::info!("stopped"),
        ExitReason::Crashed => tracing::error!("stopped because a task ended unexpectedly"),
        ExitReason::Forced => tracing::error!("stopped before the work in flight was finished"),
    }
    Ok(exit_reason)
}

/// The progress of a shutdown.
#[derive(Default)]
struct Progress {
    /// Cancelled after the last request. The writers and the ops listener then stop.
    requests_ended: CancellationToken,
    /// The reason of the shutdown.
    exit_reason: OnceLock<ExitReason>,
}

impl Progress {
    /// Returns the exit reason if the deadline interrupts the work in flight. After the last request, each webhook has its answer,
    /// and all other work is repeated: leases expire, and the retention starts again.
    fn exit_reason_at_deadline(&self) -> ExitReason {
        if !self.requests_ended.is_cancelled() {
            return ExitReason::Forced;
        }
        tracing::warn!(
            "background work was interrupted at the end of the shutdown; it is repeated"
        );
        self.exit_reason.get().copied().unwrap_or(ExitReason::Clean)
    }
}

async fn run_service(
    loaded: &Loaded,
    clock: Arc<dyn Clock>,
    listeners: Listeners,
    shutdown: &Shutdown,
    progress: &Progress,
) -> anyhow::Result<ExitReason> {
    let settings = &loaded.settings;
    file_limit::raise(
        settings.server.max_connections.count()
            + OPS_LIMITS.max_connections
            + settings.database.max_connections.count(),
    );
    let unknown_images = settings.webhook.unknown_images();
    let subscriptions = loaded.endpoints.subscriptions().clone();
    let opening = Store::open(&settings.database, unknown_images, subscriptions);
    match shutdown.graceful.run_until_cancelled(opening).await {
        Some(store) => {
            let service = Service::build(loaded, clock, store?, shutdown, progress)?;
            service.run(listeners).await
        }
        None => Ok(ExitReason::Clean),
    }
}

/// The parts of the service, before it runs.
struct Service<'a> {
    settings: &'a Settings,
    supervisor: Supervisor,
    clock: Arc<dyn Clock>,
    shutdown: &'a Shutdown,
    progress: &'a Progress,
    store: Store,
    metrics: Arc<Metrics>,
    writers: Vec<Writer>,
    receiver: Arc<Receiver>,
    /// `None` if the settings have no tokens.
    api: Option<Arc<Api>>,
    /// Set after the migrations.
    migrated: Arc<AtomicBool>,
    relay: Relay,
    /// Looks up images at Cloudflare, if the settings say so.
    reconciler: Option<Reconciler>,
    log_limiter: Arc<LineLimiter>,
    /// The connections of the webhook listener, and the tasks of requests that outlive their connection.
    requests: TaskTracker,
}

impl<'a> Service<'a> {
    fn build(
        loaded: &'a Loaded,
        clock: Arc<dyn Clock>,
        store: Store,
        shutdown: &'a Shutdown,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let settings = &loaded.settings;
        let metrics = Arc::new(Metrics::default());
        let limits = settings.database.limits();
        let (inbox, writers) = GroupCommit::new(&store.inbox, limits, &metrics.inbox);
        let requests = TaskTracker::new();
        let invalid = |problem: InvalidSetting| anyhow::anyhow!("{} {}", problem.key, problem.rule);
        let receiver = Receiver::new(
            &settings.webhook,
            &settings.server,
            Arc::new(inbox),
            Arc::clone(&clock),
            requests.clone(),
            metrics.webhook.clone(),
        )
        .map_err(invalid)?
        .accept_hints(settings.can_look_up())
        .give_up_bodies_at(shutdown.cutoff.clone());
        let limits = api::Limits {
            read_timeout: settings.server.read_timeout_secs.seconds(),
            request_tasks: requests.clone(),
            cutoff: shutdown.cutoff.clone(),
        };
        let api = build_api(loaded, store.clone(), Arc::clone(&clock), limits)?;
        let reconciler = reconciliation::reconciler(loaded, &store, &clock)?;
        Ok(Self {
            settings,
            supervisor: Supervisor {
                is_waiting: loaded.notifies_systemd,
            },
            clock,
            shutdown,
            progress,
            store,
            metrics,
            writers,
            receiver: Arc::new(receiver),
            api,
            migrated: Arc::default(),
            relay: Relay::new(loaded.endpoints.clone()),
            reconciler,
            log_limiter: Arc::new(LineLimiter::new(settings.log.refused_lines_per_second())),
            requests,
        })
    }

    /// Runs every task until shutdown. The requests end first. Then the writers commit their queue and end, and so does the ops
    /// listener.
    async fn run(self, listeners: Listeners) -> anyhow::Result<ExitReason> {
        let addresses = listeners.addresses()?;
        let mut tasks = Tasks::default();
        let webhook_server = self.open_ops_port(&mut tasks, listeners);
        let log_limiter = Arc::clone(&self.log_limiter);
        let log_stop = self.progress.requests_ended.clone();
        tasks.spawn("access log limiter", async move {
            log_limiter.run(log_stop).await;
        });
        if self.settings.database.migrate_on_start {
            let migrating = self.store.schema.migrate();
            match self.shutdown.graceful.run_until_cancelled(migrating).await {
                Some(migrated) => migrated?,
                None => return Ok(ExitReason::Clean),
            }
        }
        log_trial::try_audit_log(&self.store).await;
        self.migrated.store(true, Ordering::Release);
        self.log_startup(addresses).await;
        self.supervisor.notify(NotifyState::Ready);
        let (shutdown, store) = (self.shutdown, self.store.clone());
        let supervisor = self.supervisor;
        let (requests, progress) = (self.requests.clone(), self.progress);
        self.spawn_tasks(&mut tasks, webhook_server);

        let exit_reason = tasks.wait_for_shutdown(shutdown).await;
        supervisor.notify(NotifyState::Stopping);
        progress.exit_reason.get_or_init(|| exit_reason);
        requests.close();
        requests.wait().await;
        progress.requests_ended.cancel();
        let any_panicked = tasks.any_panicked().await;
        store.close().await;
        Ok(if any_panicked {
            ExitReason::Crashed
        } else {
            exit_reason
        })
    }

    /// Opens the port for probes: it responds during the migrations, and until the last request has ended. Returns the server of
    /// the port for webhooks if that is another port. One port for both responds during the migrations too, but closes first.
    fn open_ops_port(&self, tasks: &mut Tasks, listeners: Listeners) -> Option<Server> {
        let servers = self.servers();
        let webhook_server = servers.webhook_server(listeners.webhook, listeners.ops.is_none());
        let Some(ops) = listeners.ops else {
            let (stop, requests) = (self.shutdown.graceful.clone(), self.requests.clone());
            tasks.spawn(WEBHOOK_LISTENER, webhook_server.run(stop, requests));
            return None;
        };
        let stop = self.progress.requests_ended.clone();
        let ops_server = servers.ops_server(ops);
        tasks.spawn("ops listener", ops_server.run(stop, TaskTracker::new()));
        Some(webhook_server)
    }

    fn spawn_tasks(self, tasks: &mut Tasks, webhook_server: Option<Server>) {
        let stop = &self.shutdown.graceful;
        for (number, writer) in self.writers.into_iter().enumerate() {
            let name = format!("writer {}", number + 1);
            tasks.spawn(name, writer.run(self.progress.requests_ended.clone()));
        }
        let pruner = Pruner::new(
            self.store.retention.clone(),
            &self.settings.retention,
            Arc::clone(&self.clock),
        );
        tasks.spawn("retention", pruner.run(stop.clone()));
        let relaying = self.relay.run(
            self.store.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
            StopTokens {
                stop: stop.clone(),
                cutoff: self.shutdown.cutoff.clone(),
            },
        );
        tasks.spawn("relay", relaying);
        if let Some(reconciler) = self.reconciler {
            tasks.spawn("reconciliation", reconciler.run(stop.clone()));
        }

        let background_tasks = self.receiver.background_tasks(
            &self.settings.webhook,
            &self.store.rejections,
            &self.metrics.parked,
            stop,
        );
        for (name, task) in background_tasks {
            tasks.spawn(name, task);
        }
        if let Some(server) = webhook_server {
            tasks.spawn(WEBHOOK_LISTENER, server.run(stop.clone(), self.requests));
        }
    }

    fn servers(&self) -> Servers<'a> {
        Servers {
            settings: self.settings,
            receiver: Arc::clone(&self.receiver),
            api: self.api.clone(),
            migrated: Arc::clone(&self.migrated),
            schema: Arc::clone(&self.store.schema),
            metrics: Arc::clone(&self.metrics),
            log_limiter: Arc::clone(&self.log_limiter),
            stop: self.shutdown.graceful.clone(),
        }
    }

    async fn log_startup(&self, (webhook, ops): (SocketAddr, SocketAddr)) {
        if self.receiver.authentication_disabled() {
            tracing::warn!(
                "authentication is disabled because no webhook secret is configured; set CLOUDFLARE_WEBHOOK_SECRET"
            );
        }
        let path = self.settings.webhook.path.canonical();
        let database = &self.settings.database.url;
        let encryption = database.encryption().await;
        tracing::info!(%webhook, %ops, path, ?database, encryption, "listening for webhooks on http://{webhook}{path}");
    }
}

/// Builds the API. Returns `None` if the settings have no tokens.
fn build_api(
    loaded: &Loaded,
    store: Store,
    clock: Arc<dyn Clock>,
    limits: api::Limits,
) -> anyhow::Result<Option<Arc<Api>>> {
    let settings = &loaded.settings;
    if !settings.api.is_on() {
        return Ok(None);
    }
    let context = Context {
        store,
        clock,
        webhook: settings.webhook.clone(),
        endpoints: loaded.endpoints.clone(),
        retention: settings.retention.clone(),
        reconcile: settings.reconcile.clone(),
        can_look_up: settings.can_look_up(),
    };
    let cloudflare = Client::new(&settings.cloudflare, loaded.authorities());
    let cloudflare = cloudflare.map_err(|problem| anyhow::anyhow!(problem))?;
    let api = Api::new(&settings.api, context, cloudflare, limits);
    Ok(Some(Arc::new(api)))
}
