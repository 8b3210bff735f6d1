//! The API and its parts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cors::AllowedOrigins;
use super::guess_limit::GuessLimit;
use super::settings::Settings;
use super::token::Tokens;
use crate::application::Context;
use crate::cloudflare::Client;

/// The state of the API's routes.
pub(crate) struct Api {
    pub(super) tokens: Tokens,
    pub(super) allowed_origins: AllowedOrigins,
    pub(super) guess_limit: GuessLimit,
    /// One permit for each request in progress.
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) context: Context,
    /// `None` if the settings have no account and no token of Cloudflare.
    pub(super) cloudflare: Option<Client>,
    pub(super) limits: Limits,
}

/// The limits on the time of requests.
pub(crate) struct Limits {
    /// The time limit for a body.
    pub(crate) read_timeout: Duration,
    /// The tracker of connections, and of tasks that may outlive their connection. It is empty after the last request has ended.
    pub(crate) request_tasks: TaskTracker,
    /// Cancelled shortly before the end of a shutdown: requests give up their bodies and their calls to Cloudflare.
    pub(crate) cutoff: CancellationToken,
}

impl Api {
    pub(crate) fn new(
        settings: &Settings,
        context: Context,
        cloudflare: Option<Client>,
        limits: Limits,
    ) -> Self {
        Self {
            tokens: settings.tokens.clone(),
            allowed_origins: settings.allowed_origins.clone(),
            guess_limit: GuessLimit::per_minute(settings.client_failures_per_minute.count()),
            in_flight: Arc::new(Semaphore::new(settings.max_in_flight.count())),
            context,
            cloudflare,
            limits,
        }
    }
}
