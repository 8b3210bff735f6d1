//! Receives webhooks from Cloudflare: from the bytes of a request to the outcome in the response.
//!
//! ```text
//! gate (admission, body, signing) ──► AuthenticatedBody ──► handler ──► payload ──► Notification ──► store::Inbox
//!                                                              │
//!                                     answer ◄── Outcome ◄─────┘
//!
//! parking ──► store::Rejections: applies notifications that arrived before the row of their image
//! gate ──► refusal_counter ──► store::Rejections: counts unauthenticated requests and requests from addresses that are not allowed
//! ```

mod admission;
mod answer;
mod body;
mod gate;
mod handler;
mod parking;
pub mod payload;
mod refusal_counter;
mod settings;
mod state;

use std::sync::Arc;

use axum::Router;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::store::Rejections;
use crate::telemetry::metrics::ParkedMetrics;

pub(crate) use parking::{Parking, Reprocessed};
pub(crate) use settings::{Settings, WebhookPath};
pub use state::Receiver;

impl Receiver {
    /// Returns whether authentication is disabled because no secret is configured.
    pub(crate) fn authentication_disabled(&self) -> bool {
        self.verifier.is_disabled()
    }

    /// Returns the background tasks of the receiver, with their names. They run until `stop`. The refusal counter runs until the
    /// last request has ended, and then writes its last minute.
    pub(crate) fn background_tasks(
        &self,
        settings: &Settings,
        rejections: &Arc<dyn Rejections>,
        metrics: &ParkedMetrics,
        stop: &CancellationToken,
    ) -> [(&'static str, BoxFuture<'static, ()>); 3] {
        let parking = Parking::new(Arc::clone(rejections), settings, Arc::clone(&self.clock));
        let admission = Arc::clone(&self.admission);
        let refusal_counter = Arc::clone(&self.refusal_counter);
        let requests = self.request_tasks.clone();
        let last_request = async move { requests.wait().await };
        [
            (
                "parked notifications",
                parking.run(metrics.clone(), stop.clone()).boxed(),
            ),
            ("rate limits", admission.sweep(stop.clone()).boxed()),
            (
                "refusal counter",
                refusal_counter
                    .run(Arc::clone(rejections), last_request)
                    .boxed(),
            ),
        ]
    }

    /// Returns the route of the webhook, with and without the slash at its end.
    pub fn router(self, path: &WebhookPath) -> Router {
        let receiver = Arc::new(self);
        path.routes()
            .into_iter()
            .fold(Router::new(), |router, path| {
                let route = gate::protect(handler::receive, Arc::clone(&receiver));
                router.route(&path, route)
            })
    }
}
