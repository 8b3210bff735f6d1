//! Cloudflare to us: from the bytes of a webhook to an answer that says what became of it.
//!
//! ```text
//! gate (admission, body, signing) ──► AuthenticatedBody ──► handler ──► payload ──► Notification ──► store::Inbox
//!                                                              │
//!                                     answer ◄── Outcome ◄─────┘
//!
//! parking ──► store::Rejections: applies notifications that came before their image's row
//! gate ──► refusal_counter ──► store::Rejections: counts unauthenticated requests and those from addresses that are not allowed
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

use std::sync::Arc;

use axum::Router;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::setting::InvalidSetting;
use crate::signing::Verifier;
use crate::store::Inbox;
use crate::web;

use body::BodyReader;

pub(crate) use admission::Admission;
pub(crate) use parking::{Parking, Reprocessed};
pub(crate) use refusal_counter::RefusalCounter;
pub use settings::{Settings, WebhookPath};

/// What receiving needs.
pub struct Receiver {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) body: BodyReader,
    pub(crate) envelope: payload::Pointers,
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
    pub(crate) refusal_counter: Arc<RefusalCounter>,
    pub(crate) admission: Arc<Admission>,
}

impl Receiver {
    /// A receiver that writes into this inbox. The inbox must go on with what it was given when the caller goes away, as
    /// [`GroupCommit`](crate::store::GroupCommit) does. What has to outlive a request is a task of this tracker. Fails on a setting
    /// that cannot be used.
    pub fn new(
        settings: &Settings,
        server: &web::Settings,
        inbox: Arc<dyn Inbox>,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Result<Self, InvalidSetting> {
        Ok(Self {
            verifier: Arc::new(settings.verifier()?),
            body: BodyReader::new(
                server.body_limit_bytes.count(),
                server.read_timeout_secs.seconds(),
            ),
            envelope: settings.envelope.pointers(),
            inbox,
            admission: Arc::new(Admission::new(settings)?),
            refusal_counter: Arc::new(RefusalCounter::new(Arc::clone(&clock))),
            clock,
            tasks,
        })
    }

    /// The route, with and without the slash at its end.
    pub fn router(self, path: &WebhookPath) -> Router {
        let receiver = Arc::new(self);
        path.spellings()
            .into_iter()
            .fold(Router::new(), |router, path| {
                let route = gate::protect(handler::receive, Arc::clone(&receiver));
                router.route(&path, route)
            })
    }
}
