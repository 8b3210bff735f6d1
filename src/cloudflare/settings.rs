//! The `cloudflare` section of the configuration.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::budget::Quota;
use crate::config_types::{Bounded, InvalidSetting, Seconds, Secret};
use crate::outbound::is_loopback;

/// The most characters of an account id. Cloudflare's ids have 32.
const MAX_ACCOUNT_ID_CHARACTERS: usize = 64;

/// The `cloudflare` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    account_id: AccountId,
    api_token: Secret,
    pub(super) base_url: BaseUrl,
    /// The longest time of one call and its retries.
    pub(super) timeout_secs: Seconds<1, 300>,
    max_calls_per_5_minutes: Bounded<10, 1_000_000>,
}

/// The account and the token of the calls.
pub(super) struct Credentials<'a> {
    pub(super) account_id: &'a str,
    pub(super) api_token: &'a SecretString,
}

impl Settings {
    /// Fails if one of the account and the token is missing.
    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        let missing = |key, other| {
            let rule = format!("is missing, and {other} is set. Set both, or neither.");
            Err(InvalidSetting { key, rule })
        };
        match (self.account_id.0.is_empty(), self.api_token.get()) {
            (true, Some(_)) => missing("cloudflare.account_id", "cloudflare.api_token"),
            (false, None) => missing("cloudflare.api_token", "cloudflare.account_id"),
            (false, Some(token)) if !is_header_value(token) => Err(InvalidSetting {
                key: "cloudflare.api_token",
                rule: "must have only visible ASCII characters".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Returns whether the service can call the API.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.credentials().is_some()
    }

    pub(super) fn credentials(&self) -> Option<Credentials<'_>> {
        let account_id = &*self.account_id.0;
        let api_token = self.api_token.get().filter(|_| !account_id.is_empty())?;
        Some(Credentials {
            account_id,
            api_token,
        })
    }

    /// Returns the limit on calls.
    pub(super) fn quota(&self) -> Quota {
        Quota::per_5_minutes(self.max_calls_per_5_minutes.count())
    }
}

/// Returns whether a header can carry the token.
fn is_header_value(token: &SecretString) -> bool {
    token
        .expose_secret()
        .bytes()
        .all(|byte| byte.is_ascii_graphic())
}

/// The id of an account, or an empty text.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct AccountId(String);

impl TryFrom<String> for AccountId {
    type Error = &'static str;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        let is_valid = id.len() <= MAX_ACCOUNT_ID_CHARACTERS
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_valid {
            Ok(Self(id))
        } else {
            Err("must be the account id of Cloudflare, which has 32 letters and digits")
        }
    }
}

/// The URL before `/accounts/…`, without a slash at its end.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct BaseUrl(Url);

impl TryFrom<String> for BaseUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "must be a URL such as https://api.cloudflare.com/client/v4";
        let url = Url::parse(text.trim_end_matches('/')).map_err(|_| RULE)?;
        let is_plain = url.query().is_none() && url.fragment().is_none();
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !(matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain && !has_user) {
            return Err(RULE);
        }
        // Anybody in the network could read the token.
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err("must begin with https://, because the calls have the token");
        }
        Ok(Self(url))
    }
}

impl BaseUrl {
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns the URL of a path that is percent-encoded.
    pub(super) fn join(&self, path: &str) -> Option<Url> {
        let base = self.0.as_str().trim_end_matches('/');
        let url = format!("{base}{path}").parse::<Url>().ok()?;
        // A URL parser removes the segments `.` and `..`, so the call would be another one.
        url.as_str().ends_with(path).then_some(url)
    }
}
