//! The `api` section of the configuration.

use serde::Deserialize;

use super::cors::AllowedOrigins;
use super::token::Tokens;
use crate::config_types::Bounded;

/// The `api` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(super) tokens: Tokens,
    /// The origins whose pages may send requests from a browser.
    pub(super) allowed_origins: AllowedOrigins,
    /// The maximum number of requests in progress.
    pub(super) max_in_flight: Bounded<1, 10_000>,
    /// The maximum number of wrong tokens per minute from one client. 0 means no limit.
    pub(super) client_failures_per_minute: Bounded<0, 100_000>,
}

impl Settings {
    /// Returns whether the API has routes.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.tokens.is_empty()
    }
}
