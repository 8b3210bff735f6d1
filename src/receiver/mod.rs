//! Receives webhooks from Cloudflare: from the bytes of a request to the outcome in the response.
//!
//! ```text
//! gate (admission, body, signing) ──► AuthenticatedBody ──► handler ──► payload ──► Notification ──► store::Inbox
//!                                                              │
//!                                   response ◄── Outcome ◄─────┘
//!
//! parking ──► store::Rejections: applies notifications that arrived before the row of their image
//! gate ──► refusal_counter ──► store::Rejections: counts unauthenticated requests and requests from addresses that are not allowed
//! ```

mod admission;
mod body;
mod gate;
mod handler;
mod memory_budget;
mod parking;
pub mod payload;
mod refusal_counter;
mod response;
mod settings;
mod state;

use std::sync::Arc;

use axum::Router;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config_types::UrlPath;
use crate::domain::outcome::RejectionReason;
use crate::store::Rejections;
use crate::telemetry::metrics::ParkedMetrics;
use crate::web::AddressFilter;

pub(crate) use parking::{ParkedApplier, Reprocessed};
pub(crate) use settings::{SecretAge, Settings};
pub use state::Receiver;

impl Receiver {
    /// Returns whether authentication is disabled because no secret is configured.
    pub(crate) fn authentication_disabled(&self) -> bool {
        self.verifier.is_disabled()
    }

    /// Returns a filter of the addresses that may connect. It counts the connections that it refuses.
    pub(crate) fn address_filter(&self) -> AddressFilter {
        let (admission, counter) = (
            Arc::clone(&self.admission),
            Arc::clone(&self.refusal_counter),
        );
        let clock = Arc::clone(&self.clock);
        Arc::new(move |client| {
            let is_allowed = admission.allows(client);
            if !is_allowed {
                let reason = RejectionReason::AddressNotAllowed;
                counter.count(reason, clock.now(), None, Some(client));
            }
            is_allowed
        })
    }

    /// Returns the background tasks of the receiver, with their names. Two of them run until `stop`. The refusal counter runs
    /// longer: when the last request has ended, it writes the remaining counts, and ends.
    pub(crate) fn background_tasks(
        &self,
        settings: &Settings,
        rejections: &Arc<dyn Rejections>,
        metrics: &ParkedMetrics,
        stop: &CancellationToken,
    ) -> [(&'static str, BoxFuture<'static, ()>); 3] {
        let applier = ParkedApplier::new(
            Arc::clone(rejections),
            settings,
            self.envelope.can_look_up,
            Arc::clone(&self.clock),
        );
        let admission = Arc::clone(&self.admission);
        let refusal_counter = Arc::clone(&self.refusal_counter);
        let requests = self.request_tasks.clone();
        let last_request = async move { requests.wait().await };
        [
            (
                "parked notifications",
                applier.run(metrics.clone(), stop.clone()).boxed(),
            ),
            (
                "idle clients",
                admission.remove_idle_clients(stop.clone()).boxed(),
            ),
            (
                "refusal counter",
                refusal_counter
                    .run(Arc::clone(rejections), last_request)
                    .boxed(),
            ),
        ]
    }

    /// Returns the route of the webhook, with and without the slash at its end.
    pub fn router(self: &Arc<Self>, path: &UrlPath) -> Router {
        path.routes()
            .into_iter()
            .fold(Router::new(), |router, path| {
                let route = gate::protect(handler::receive, Arc::clone(self));
                router.route(&path, route)
            })
    }
}
