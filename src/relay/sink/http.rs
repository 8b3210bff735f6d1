//! Over HTTP: one POST a try.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::headers::{Headers, lines};
use super::{Attempted, Sink, url};
use crate::domain::delivery::Tried;
use crate::domain::timestamp::Timestamp;
use crate::relay::guard::Guard;
use crate::relay::message::Message;
use crate::relay::oauth2::{Credentials, Tokens};
use crate::relay::settings::{AuthSettings, EndpointSettings};
use crate::telemetry::chain;

/// The most that is read of an answer, so that its connection can be used again. Nothing in it counts.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// What we call ourselves.
const OUR_NAME: &str = concat!("cloudflare-images-webhook/", env!("CARGO_PKG_VERSION"));

pub(super) struct HttpSink {
    url: Url,
    headers: Headers,
    client: Client,
    /// Where the token comes from that is sent with every message.
    tokens: Option<Tokens>,
}

impl HttpSink {
    pub(super) fn new(
        settings: &EndpointSettings,
        url: Url,
        guard: &Guard,
    ) -> Result<Self, String> {
        check(&url, guard)?;
        if !settings.subject.is_empty() {
            return Err("has a subject, which only a url of NATS takes".to_owned());
        }
        // The client would add these; they are said here, so that a preview has them.
        let headers = Headers::new(settings)?
            .or(USER_AGENT, HeaderValue::from_static(OUR_NAME))
            .or(ACCEPT, HeaderValue::from_static("*/*"));
        let client = client(guard, settings.max_in_flight.count())?;
        let auth = settings.auth.as_ref();
        if auth.is_some() && headers.contain(&AUTHORIZATION) {
            return Err("has auth and sets the header authorization: keep one of them".to_owned());
        }
        let tokens = auth.map(|auth| tokens(auth, guard, &client)).transpose()?;
        Ok(Self {
            url,
            headers,
            client,
            tokens,
        })
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: &Message) -> Attempted {
        let mut headers = self.headers.of(message);
        let mut token = None;
        if let Some(tokens) = &self.tokens {
            match tokens.bearer().await {
                Ok(bearer) => {
                    headers.insert(AUTHORIZATION, bearer.clone());
                    token = Some((tokens, bearer));
                }
                Err(error) => return Attempted::unanswered(error.to_string()),
            }
        }
        let request = self.client.post(self.url.clone()).headers(headers);
        match request.body(message.body.clone()).send().await {
            Ok(response) => {
                if let Some((tokens, bearer)) = token
                    && response.status() == StatusCode::UNAUTHORIZED
                {
                    // The next try gets another.
                    tokens.forget(&bearer).await;
                }
                answered(response, message.sent_at).await
            }
            // Not with the URL: what is secret can stand in it.
            Err(error) => Attempted::unanswered(chain(&error.without_url())),
        }
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let origin = self.url.origin().ascii_serialization();
        let mut head = vec![
            format!("POST {origin}/***"),
            format!("host: {}", self.url.authority()),
        ];
        head.extend(lines(&self.headers.of(message)));
        if self.tokens.is_some() {
            head.push("authorization: ***".to_owned());
        }
        head.push(format!("content-length: {}", message.body.len()));
        head
    }
}

fn check(url: &Url, guard: &Guard) -> Result<(), String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "must have a url without a user and a password: send them in headers".to_owned(),
        );
    }
    // A name is looked up with every new connection, and looked at then.
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        Some(Host::Domain(_)) | None => None,
    };
    if ip.is_some_and(|ip| guard.refuses(ip)) {
        return Err("has a url to an address that nothing is sent to".to_owned());
    }
    Ok(())
}

fn tokens(auth: &AuthSettings, guard: &Guard, client: &Client) -> Result<Tokens, String> {
    let AuthSettings::OAuth2 {
        client_id,
        client_secret,
        token_url,
        scope,
        client_authentication,
    } = auth.clone();
    let token_url = url(token_url.expose_secret())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or("must have an auth.token_url such as https://login.example/oauth/token")?;
    check(&token_url, guard).map_err(|problem| problem.replace("a url", "an auth.token_url"))?;
    let credentials = Credentials {
        token_url,
        client_id,
        client_secret,
        scope,
        authentication: client_authentication,
    };
    Ok(Tokens::new(credentials, client.clone()))
}

/// One for each endpoint: its connections are its own, so that one endpoint takes none from another.
fn client(guard: &Guard, max_in_flight: usize) -> Result<Client, String> {
    // An error means that a provider is there already, which is all that is wanted.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(OUR_NAME)
        .redirect(Policy::none())
        // A proxy would connect to what we have not looked at.
        .no_proxy()
        .dns_resolver(guard.clone())
        .pool_max_idle_per_host(max_in_flight)
        .build()
        .map_err(|error| format!("cannot be called: {error}"))
}

async fn answered(mut response: Response, sent_at: Timestamp) -> Attempted {
    let status = response.status();
    let status_code = Some(status.as_u16());
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, sent_at));
    let mut left = MAX_ANSWER_BYTES;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if chunk.len() < left => left -= chunk.len(),
            Ok(_) => break,
            Err(error) => {
                let why = chain(&error.without_url());
                return Attempted {
                    status_code,
                    ..Attempted::unanswered(format!("the answer broke off: {why}"))
                };
            }
        }
    }
    let error = if status.is_success() {
        String::new()
    } else if status.is_redirection() {
        format!("answered {status}, and redirects are not followed")
    } else {
        format!("answered {status}")
    };
    Attempted {
        tried: Tried::Answered {
            status: status.as_u16(),
            retry_after,
        },
        status_code,
        error,
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = Duration::from_secs(u64::try_from(now.unix_seconds()).ok()?);
    Some(date.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse_rfc3339("2015-10-21T07:27:00Z").expect("a time");
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:26:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let parsed = parse_retry_after(text, now);
            assert_eq!(parsed, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
