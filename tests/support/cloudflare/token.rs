//! The token of the calls, and the clock of the answers.

use axum::http::{HeaderValue, Response};
use cloudflare_images_webhook::clock::{Clock, SystemClock};
use serde_json::json;

use super::{Answer, BASE, Cloudflare};

/// The owner of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TokenOwner {
    #[default]
    User,
    Account,
}

/// The token, as Cloudflare knows it.
#[derive(Default)]
pub(super) struct TokenState {
    owner: TokenOwner,
    /// `None`: active.
    status: Option<&'static str>,
    expires_on: Option<&'static str>,
}

impl Cloudflare {
    /// Gives the token to the account instead of a user. Each kind is verified at a path of its own.
    pub(crate) fn give_token_to_account(&self) {
        self.inner.state().token.owner = TokenOwner::Account;
    }

    /// Makes the token `disabled` or `expired`.
    pub(crate) fn set_token_status(&self, status: &'static str) {
        self.inner.state().token.status = Some(status);
    }

    /// Sets the end of the token.
    pub(crate) fn set_token_expiry(&self, expires_on: &'static str) {
        self.inner.state().token.expires_on = Some(expires_on);
    }

    /// Moves the clock of Cloudflare by this number of seconds.
    pub(crate) fn move_clock(&self, seconds: i64) {
        self.inner.state().clock_offset = seconds;
    }
}

impl TokenState {
    pub(super) fn is_active(&self) -> bool {
        self.status.is_none()
    }

    /// Answers a request to verify the token, at the path for tokens of this owner.
    pub(super) fn verify(&self, owner: TokenOwner) -> Answer {
        if owner != self.owner {
            return Answer::error(401, 1000, "Invalid API Token");
        }
        let mut result = json!({
            "id": "ed17574386854bf78a67040be0a770b0",
            "status": self.status.unwrap_or("active"),
        });
        if let Some(expires_on) = self.expires_on {
            result["expires_on"] = expires_on.into();
        }
        Answer::ok(&result)
    }
}

/// Returns whose tokens are verified at this path, if it verifies tokens. `path` is the part after the account.
pub(super) fn verified_owner(full_path: &str, path: Option<&str>) -> Option<TokenOwner> {
    if full_path == format!("{BASE}/user/tokens/verify") {
        Some(TokenOwner::User)
    } else {
        (path == Some("/tokens/verify")).then_some(TokenOwner::Account)
    }
}

/// Sets the header `Date` of an answer if the clock of Cloudflare is off.
pub(super) fn set_date<B>(response: &mut Response<B>, offset: i64) {
    if offset == 0 {
        return;
    }
    let now = SystemClock.now().to_offset_date_time();
    let date = std::time::SystemTime::from(now + time::Duration::seconds(offset));
    let date = httpdate::fmt_http_date(date);
    let date = HeaderValue::try_from(date).expect("a date is a header");
    response.headers_mut().insert("date", date);
}
