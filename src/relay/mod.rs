//! Us to other apps: what has changed, signed, tried again, and logged.
//!
//! ```text
//! store::Outbox ──► worker (one for each endpoint) ──► message ──► sink ──► the endpoint
//!       ▲                                                            │
//!       └──────────────── settling ◄───────── what came of it ◄──────┘
//! ```
//!
//! Receiving and relaying meet only in rows: whoever records a notification writes, in the same transaction, one delivery for each
//! endpoint that wants its event. A worker leases deliveries for a limited time, works on them with no transaction open, and settles
//! them under that lease. Whatever dies in between, the lease runs out, and somebody tries again: at least once, and never none.

mod attempt;
mod background;
mod endpoint;
mod guard;
mod health;
mod message;
mod notices;
mod oauth2;
mod program;
mod right_of_way;
mod settings;
mod settling;
mod shape;
mod sink;
mod trial;
mod worker;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::setting::InvalidSetting;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

use background::Background;
use endpoint::Endpoint;
use health::Health;
use notices::Notices;
use right_of_way::RightOfWay;
use settling::Settler;
use worker::Worker;

pub use settings::Settings;
pub(crate) use trial::Trial;

/// Why an endpoint is paused that its settings pause.
pub(crate) const PAUSED_BY_SETTING: &str = "its settings pause it";

/// Everything that delivers.
pub(crate) struct Relay {
    endpoints: Vec<Arc<Endpoint>>,
    /// Those that are told that others could not be told.
    told_of_failures: Vec<Arc<Endpoint>>,
    notices: Notices,
}

impl Relay {
    /// Makes ready what the settings name. Fails on one that cannot be used.
    pub(crate) fn new(settings: &Settings) -> Result<Self, InvalidSetting> {
        let (endpoints, told_of_failures) = (settings.endpoints()?, settings.told_of_failures()?);
        Ok(Self {
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
            told_of_failures: told_of_failures.into_iter().map(Arc::new).collect(),
            notices: settings.notices(),
        })
    }

    /// Delivers until it is asked to stop; then finishes the calls that it is in, and gives back what it has not begun.
    pub(crate) async fn run(
        self,
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        if self.endpoints.is_empty() {
            // Nothing is to be done, and a part that ends by itself is taken for one that crashed.
            return stop.cancelled().await;
        }
        let background = match Background::start() {
            Ok(background) => background,
            Err(error) => {
                // As a part that ends by itself, which ends the service.
                tracing::error!(%error, "the relay's threads cannot be started");
                return;
            }
        };
        let right_of_way = Arc::new(RightOfWay::of(metrics.inbox.clone(), stop.clone()));
        let (settler, settlements) = Settler::new(
            store.outbox.clone(),
            Arc::clone(&right_of_way),
            metrics.relay.clone(),
            stop.clone(),
        );
        let mut workers = JoinSet::new();
        let endpoints = self.endpoints.into_iter().map(|one| (one, self.notices));
        // Nobody is told that they fail: that would go on for ever.
        let others = self.told_of_failures.into_iter();
        let others = others.map(|one| (one, Notices::default()));
        for (endpoint, notices) in endpoints.chain(others) {
            let worker = Worker {
                bell: store.wakeup(&endpoint.name),
                endpoint,
                outbox: store.outbox.clone(),
                clock: Arc::clone(&clock),
                settlements: settlements.clone(),
                calls: background.handle(),
                main: Handle::current(),
                right_of_way: Arc::clone(&right_of_way),
                stop: stop.clone(),
                health: Health::default(),
                notices,
                metrics: metrics.relay.clone(),
            };
            workers.spawn(Arc::new(worker).run());
        }
        drop(settlements);
        // One that panics takes the relay along, and with it the service: its endpoint would be told nothing any more.
        let watching = async {
            while let Some(ended) = workers.join_next().await {
                ended.expect("a worker does not panic");
            }
        };
        // The settler ends when the last worker has.
        tokio::join!(settler.run(), watching);
    }
}
