//! The HTTP API of the listener for webhooks: requests of other programs, with a token.
//!
//! ```text
//! guard (guess_limit, token) ──► handler ──► body ──► application ──► problem, or the response
//! ```
//!
//! It translates HTTP into calls of [`application`](crate::application). Without tokens it has no routes. Each route names the scope
//! that its tokens need.

mod body;
mod cors;
mod guard;
mod guess_limit;
mod idempotency;
mod problem;
mod settings;
mod state;
mod token;
mod upload_url;

use std::sync::Arc;

use axum::Router;

use crate::config_types::{InvalidSetting, UrlPath};
use token::Scope;

pub use settings::Settings;
pub(crate) use state::{Api, Limits};

/// The path of upload URLs. The slash at its end is optional.
const UPLOAD_URL_PATH: &str = "/cloudflare-images/api/upload-url";

/// The paths of all routes, without the slash at their end.
const PATHS: [&str; 1] = [UPLOAD_URL_PATH];

impl Api {
    /// Returns the routes.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        let upload_url = guard::protect(upload_url::create, Scope::Write, self);
        Router::new()
            .route(UPLOAD_URL_PATH, upload_url.clone())
            .route(&format!("{UPLOAD_URL_PATH}/"), upload_url)
    }
}

impl Settings {
    /// Fails if another route has the path of a route of the API. `key` is the setting of the other one.
    pub(crate) fn check_path(
        &self,
        key: &'static str,
        path: &UrlPath,
    ) -> Result<(), InvalidSetting> {
        let is_taken = path
            .routes()
            .iter()
            .any(|path| PATHS.contains(&path.trim_end_matches('/')));
        if self.is_on() && is_taken {
            let rule = "is a path of the HTTP API (api.tokens). Choose another path.".to_owned();
            return Err(InvalidSetting { key, rule });
        }
        Ok(())
    }
}
