//! Bearer tokens from OAuth 2.0 client credentials (RFC 6749, section 4.4).
//!
//! Written by hand, because the protocol is one form and one response. The `oauth2` crate would add second versions of six
//! dependencies.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::http_client::check_url;
use super::network::Network;
use super::outbound_proxy::OutboundProxy;
use crate::outbound::read_capped;
use crate::relay::settings::{AuthSettings, ClientAuthentication, FormValue, parse_url};
use crate::telemetry::chain;

const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The lifetime of a token if the server does not state one.
const DEFAULT_TTL: Duration = Duration::from_mins(5);

/// A token is replaced this long before it expires. A token with a short lifetime is replaced after nine tenths of the lifetime.
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_mins(1);

/// The names of bearer tokens in responses. Apigee writes `BearerToken`. Some servers leave the name out.
const BEARER_TYPES: [&str; 3] = ["bearer", "bearertoken", ""];

/// The fields of a token request that have settings of their own.
const OWN_FIELDS: [&str; 4] = ["grant_type", "scope", "client_id", "client_secret"];

/// The service's account at the token server.
struct Credentials {
    token_url: Url,
    client_id: String,
    client_secret: SecretString,
    scope: String,
    client_authentication: ClientAuthentication,
    form: BTreeMap<String, FormValue>,
}

/// Fetches tokens, one request at a time. Caches the last token until shortly before it expires.
pub(super) struct TokenCache {
    credentials: Credentials,
    client: Client,
    proxy: Option<OutboundProxy>,
    cached: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    replace_at: Instant,
}

/// The error if there is no token. The message is then not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("no token: {0}")]
    Unreachable(String),
    #[error("no token: {0}")]
    Refused(String),
    /// The response is too long, malformed, or has no bearer token.
    #[error("no token: the token server's response has no usable bearer token")]
    Unusable,
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: SecretString,
    token_type: Option<String>,
    expires_in: Option<ExpiresIn>,
}

/// A number of seconds. Some servers send it as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum ExpiresIn {
    Number(f64),
    Text(String),
}

impl TokenCache {
    /// Checks the settings. The error is a clause that names the setting.
    pub(super) fn new(
        auth: &AuthSettings,
        client: Client,
        network: &Network,
    ) -> Result<Self, String> {
        let AuthSettings::OAuth2 {
            client_id,
            client_secret,
            token_url,
            scope,
            client_authentication,
            form,
        } = auth.clone();
        if let Some(name) = form.keys().find(|name| OWN_FIELDS.contains(&name.as_str())) {
            return Err(format!(
                "auth.form cannot have {name}, because the service sends it"
            ));
        }
        let token_url = parse_url(&token_url)
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or("auth.token_url must be a URL such as https://login.example/oauth/token")?;
        check_url(&token_url, "auth.token_url", network)?;
        Ok(Self {
            credentials: Credentials {
                token_url,
                client_id,
                client_secret,
                scope,
                client_authentication,
                form,
            },
            client,
            proxy: network.proxy.clone(),
            cached: Mutex::default(),
        })
    }

    /// Returns the value of the `Authorization` header. Concurrent callers share one request to the token server.
    pub(super) async fn bearer(&self) -> Result<HeaderValue, TokenError> {
        let mut cached = self.cached.lock().await;
        if let Some(token) = cached
            .as_ref()
            .filter(|token| Instant::now() < token.replace_at)
        {
            return Ok(token.header.clone());
        }
        *cached = None;
        let token = self.fetch().await?;
        let header = token.header.clone();
        *cached = Some(token);
        Ok(header)
    }

    /// Removes a token that the endpoint refused, unless it was already replaced.
    pub(super) async fn invalidate(&self, header: &HeaderValue) {
        let mut cached = self.cached.lock().await;
        if cached.as_ref().is_some_and(|token| token.header == header) {
            *cached = None;
        }
    }

    async fn fetch(&self) -> Result<Token, TokenError> {
        let requested_at = Instant::now();
        let unreachable = |error: reqwest::Error| {
            let error = error.without_url();
            TokenError::Unreachable(match &self.proxy {
                Some(_) => OutboundProxy::describe(&error),
                None => chain(&error),
            })
        };
        let response = self.request().send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            const SERVER: &str = "the token server";
            let (url, answer) = (&self.credentials.token_url, format!("answered {status}"));
            return Err(TokenError::Refused(match &self.proxy {
                Some(proxy) if proxy.forwards(url) => {
                    proxy.describe_answer(SERVER, url, status, answer)
                }
                _ => format!("{SERVER} {answer}"),
            }));
        }
        let body = read_capped(response, MAX_RESPONSE_BYTES).await;
        let body = body.map_err(unreachable)?.ok_or(TokenError::Unusable)?;
        let response = serde_json::from_slice(&body).map_err(|_| TokenError::Unusable)?;
        parse_token(&response, requested_at).ok_or(TokenError::Unusable)
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let Credentials {
            token_url,
            client_id,
            client_secret,
            scope,
            client_authentication,
            form: further_fields,
        } = &self.credentials;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !scope.is_empty() {
            form.append_pair("scope", scope);
        }
        for (name, value) in further_fields {
            for text in value.texts() {
                form.append_pair(name, text);
            }
        }
        let mut request = self.client.post(token_url.clone());
        match client_authentication {
            ClientAuthentication::Basic => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!(
                    "{}:{}",
                    encoded(client_id),
                    encoded(client_secret.expose_secret())
                );
                let value = format!("Basic {}", STANDARD.encode(pair));
                let mut value = HeaderValue::try_from(value).expect("base64 is visible ASCII");
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            ClientAuthentication::Body => {
                form.append_pair("client_id", client_id);
                form.append_pair("client_secret", client_secret.expose_secret());
            }
        }
        request
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish())
    }
}

/// Returns the token in a response. `None` if the response has no usable bearer token.
fn parse_token(response: &TokenResponse, requested_at: Instant) -> Option<Token> {
    let token_type = response.token_type.as_deref().unwrap_or_default();
    let is_bearer = BEARER_TYPES
        .iter()
        .any(|name| token_type.eq_ignore_ascii_case(name));
    let header = format!("Bearer {}", response.access_token.expose_secret());
    let mut header = HeaderValue::try_from(header).ok().filter(|_| is_bearer)?;
    header.set_sensitive(true);
    let seconds = match &response.expires_in {
        None => None,
        Some(ExpiresIn::Number(seconds)) => Some(*seconds),
        Some(ExpiresIn::Text(text)) => text.trim().parse().ok(),
    };
    let lifetime = seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(DEFAULT_TTL);
    let margin = REFRESH_BEFORE_EXPIRY.min(lifetime / 10);
    Some(Token {
        header,
        replace_at: requested_at.checked_add(lifetime.saturating_sub(margin))?,
    })
}
