//! The token of the calls (<https://developers.cloudflare.com/api/resources/accounts/subresources/tokens/methods/verify/>).

use serde::Deserialize;

use super::client::{Call, Client};
use super::error::{ApiError, ErrorKind};
use crate::domain::timestamp::Timestamp;

const ACTION: &str = "verifying the token";

/// The token, as Cloudflare describes it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Token {
    /// `active`, `disabled` or `expired`.
    pub(crate) status: String,
    #[serde(default)]
    expires_on: Option<String>,
}

impl Token {
    /// Returns the time at which the token expires. `None`: never.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let text = self.expires_on.as_deref()?;
        Timestamp::parse_rfc3339(text).ok()
    }
}

impl Client {
    /// Returns the state of the token. A token belongs to an account or to a user, and each kind has a path of its own.
    pub(crate) async fn token(&self) -> Result<Token, ApiError> {
        let call = Call::get(ACTION, "/tokens/verify");
        let of_account = match self.call::<Token>(&call).await {
            Ok(answer) => return Ok(answer.result),
            Err(error) => error,
        };
        match of_account.kind {
            ErrorKind::Unauthorized
            | ErrorKind::Forbidden
            | ErrorKind::NotFound
            | ErrorKind::Refused
            | ErrorKind::AlreadyExists
            | ErrorKind::Unexpected(_) => {}
            ErrorKind::RateLimited { .. }
            | ErrorKind::Unavailable(_)
            | ErrorKind::TimedOut { .. }
            | ErrorKind::LimitUnknown(_) => return Err(of_account),
        }
        let call = Call::get(ACTION, "/user/tokens/verify");
        match self.call_outside_account::<Token>(&call).await {
            Ok(answer) => Ok(answer.result),
            // The first error can name a wrong account.
            Err(_) if matches!(of_account.kind, ErrorKind::Unexpected(_)) => Err(of_account),
            Err(error) => Err(error),
        }
    }
}
