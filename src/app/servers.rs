//! The two listeners: their routes and their limits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::Settings;
use crate::ops::{self, Ops};
use crate::receiver::Receiver;
use crate::store::Schema;
use crate::telemetry::metrics::Metrics;
use crate::web::{Limits, LineLimiter, Server, TrustedProxies, refuse_until, with_middleware};

/// The limits of the ops listener. Probes are few and fast.
pub(super) const OPS_LIMITS: Limits = Limits {
    max_connections: 64,
    max_connections_per_client: None,
    head_timeout: Duration::from_secs(5),
    keep_alive: Duration::from_secs(5),
};

/// The parts that the listeners serve.
pub(super) struct Servers<'a> {
    pub(super) settings: &'a Settings,
    pub(super) receiver: Arc<Receiver>,
    pub(super) api: Option<Arc<Api>>,
    /// Set after the migrations.
    pub(super) migrated: Arc<AtomicBool>,
    pub(super) schema: Arc<dyn Schema>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log_limiter: Arc<LineLimiter>,
    /// Cancelled when the service stops.
    pub(super) stop: CancellationToken,
}

impl Servers<'_> {
    /// Returns the server of the port for webhooks. With `has_ops_routes`, it also serves probes and metrics, and is open before the
    /// migrations have run.
    pub(super) fn webhook_server(&self, listener: TcpListener, has_ops_routes: bool) -> Server {
        let (settings, server) = (&self.settings.webhook, &self.settings.server);
        let proxies = server.proxies();
        let router = self.receiver.router(&settings.path);
        let api = self.api.as_ref().map(Api::router);
        let router = router.merge(api.unwrap_or_default());
        let router = if has_ops_routes {
            refuse_until(&self.migrated, router).merge(self.ops().router())
        } else {
            router
        };
        let health = server.health_path.get().map(ops::health_router);
        let router = router.merge(health.unwrap_or_default());
        // Behind a proxy, the address of a client is known only from the headers of its requests. On the port of the probes or of the
        // API, the address is checked for webhooks only.
        let has_other_clients = has_ops_routes || self.api.is_some();
        let address_filter = (proxies.trusted.is_empty() && !has_other_clients)
            .then(|| self.receiver.address_filter());
        Server {
            listener,
            address_filter,
            log_limiter: Arc::clone(&self.log_limiter),
            metrics: self.metrics.web.clone(),
            router: with_middleware(router, Arc::clone(&self.log_limiter)),
            limits: server.limits(),
            proxies,
        }
    }

    /// Returns the server of the port for probes and metrics.
    pub(super) fn ops_server(&self, listener: TcpListener) -> Server {
        Server {
            listener,
            address_filter: None,
            log_limiter: Arc::clone(&self.log_limiter),
            metrics: self.metrics.web.clone(),
            router: with_middleware(self.ops().router(), Arc::clone(&self.log_limiter)),
            limits: OPS_LIMITS,
            proxies: TrustedProxies::default(),
        }
    }

    fn ops(&self) -> Ops {
        Ops::new(
            Arc::clone(&self.schema),
            self.receiver.authentication_disabled(),
            self.stop.clone(),
            Arc::clone(&self.metrics),
        )
    }
}
