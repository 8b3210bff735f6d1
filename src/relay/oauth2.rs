//! Tokens for an endpoint that wants one: OAuth 2.0's client credentials (RFC 6749, section 4.4).
//!
//! By hand, since it is one form and one answer: the crate for it would bring second versions of six others.

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

use crate::telemetry::chain;

/// The most that is read of the server's answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// For how long a token is taken to hold whose server does not say.
const LIFETIME: Duration = Duration::from_mins(5);

/// How long before its end a token is replaced, or a tenth of its time where that is less.
const EARLY: Duration = Duration::from_mins(1);

/// How the client says who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientAuthentication {
    /// In a header, as every server understands.
    #[default]
    Basic,
    /// In the form.
    Body,
}

/// Who we are, and where that is to be said.
pub(super) struct Credentials {
    pub(super) token_url: Url,
    pub(super) client_id: String,
    pub(super) client_secret: SecretString,
    pub(super) scope: String,
    pub(super) authentication: ClientAuthentication,
}

/// Fetches tokens, one request at a time, and keeps the last while it holds.
pub(super) struct Tokens {
    credentials: Credentials,
    client: Client,
    kept: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    replace_at: Instant,
}

/// Why there is no token. Without one, nothing is delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoToken {
    /// The server cannot be asked.
    #[error("there is no token: {}", chain(.0))]
    Unreachable(reqwest::Error),
    /// The server refuses.
    #[error("there is no token: the token server answered {0}")]
    Refused(reqwest::StatusCode),
    /// The server says something else.
    #[error("there is no token: the token server's answer is no bearer token")]
    Unusable,
}

#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    #[serde(default)]
    token_type: String,
    expires_in: Option<Seconds>,
}

/// Some servers write the number as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl Tokens {
    pub(super) fn new(credentials: Credentials, client: Client) -> Self {
        Self {
            credentials,
            client,
            kept: Mutex::default(),
        }
    }

    /// The value for the header `Authorization`. Whoever asks while a token is fetched waits for that one.
    pub(super) async fn bearer(&self) -> Result<HeaderValue, NoToken> {
        let mut kept = self.kept.lock().await;
        if let Some(token) = kept
            .as_ref()
            .filter(|token| Instant::now() < token.replace_at)
        {
            return Ok(token.header.clone());
        }
        *kept = None;
        let token = self.fetch().await?;
        let header = token.header.clone();
        *kept = Some(token);
        Ok(header)
    }

    /// Forgets a token that was refused, unless another has taken its place.
    pub(super) async fn forget(&self, header: &HeaderValue) {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|token| token.header == header) {
            *kept = None;
        }
    }

    async fn fetch(&self) -> Result<Token, NoToken> {
        let asked_at = Instant::now();
        let unreachable = |error: reqwest::Error| NoToken::Unreachable(error.without_url());
        let mut response = self.request().send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(NoToken::Refused(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(NoToken::Unusable);
            }
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| NoToken::Unusable)?;
        token(&answer, asked_at).ok_or(NoToken::Unusable)
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let Credentials {
            token_url,
            client_id,
            client_secret,
            scope,
            authentication,
        } = &self.credentials;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !scope.is_empty() {
            form.append_pair("scope", scope);
        }
        let mut request = self.client.post(token_url.clone());
        match authentication {
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

fn token(answer: &Answer, asked_at: Instant) -> Option<Token> {
    let is_bearer =
        answer.token_type.is_empty() || answer.token_type.eq_ignore_ascii_case("bearer");
    let header = format!("Bearer {}", answer.access_token.expose_secret());
    let mut header = HeaderValue::try_from(header).ok().filter(|_| is_bearer)?;
    header.set_sensitive(true);
    let seconds = match &answer.expires_in {
        None => None,
        Some(Seconds::Number(seconds)) => Some(*seconds),
        Some(Seconds::Text(text)) => text.parse().ok(),
    };
    let lifetime = seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(LIFETIME);
    let early = EARLY.min(lifetime / 10);
    Some(Token {
        header,
        replace_at: asked_at.checked_add(lifetime.saturating_sub(early))?,
    })
}
