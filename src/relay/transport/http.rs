//! The HTTP transport: one POST per attempt.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, header};
use url::Url;

use super::headers::{MessageHeaders, redacted_lines};
use super::http_client::{self, check_url};
use super::network::Network;
use super::oauth2::TokenCache;
use super::outbound_proxy::OutboundProxy;
use super::sink::{Message, SendOutcome, Sink};
use crate::domain::delivery::AttemptResult;
use crate::domain::timestamp::Timestamp;
use crate::outbound::{USER_AGENT, read_capped};
use crate::relay::settings::EndpointSettings;
use crate::telemetry::chain;

/// The limit for reading a response's body. The content is ignored, but the connection can only be reused after reading it.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// Posts messages to a URL.
pub(super) struct HttpSink {
    url: Url,
    headers: MessageHeaders,
    client: Client,
    /// The source of bearer tokens, if `auth` is configured.
    tokens: Option<TokenCache>,
    proxy: Option<OutboundProxy>,
}

impl HttpSink {
    /// Checks the settings. The error is a clause that names the setting.
    pub(super) fn new(
        settings: &EndpointSettings,
        url: Url,
        network: &Network,
    ) -> Result<Self, String> {
        check_url(&url, "url", network)?;
        if !settings.subject.is_empty() || settings.nats.is_some() {
            return Err("subject and nats are only for NATS endpoints".to_owned());
        }
        // The client would add these headers too. `endpoints preview` shows only the headers that are set here.
        let headers = MessageHeaders::new(settings)?
            .with_default(header::USER_AGENT, HeaderValue::from_static(USER_AGENT))
            .with_default(ACCEPT, HeaderValue::from_static("*/*"));
        let auth = settings.auth.as_ref();
        let has_tls = url.scheme() == "https" || auth.is_some();
        let client = http_client::client(network, settings.max_in_flight.count(), has_tls)?;
        if auth.is_some() && headers.contains(&AUTHORIZATION) {
            return Err(
                "auth and the header authorization are both set. Remove one of them.".to_owned(),
            );
        }
        let tokens = auth.map(|auth| TokenCache::new(auth, client.clone(), network));
        Ok(Self {
            url,
            headers,
            client,
            tokens: tokens.transpose()?,
            proxy: network.proxy.clone(),
        })
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: &Message) -> SendOutcome {
        let mut headers = self.headers.for_message(message);
        let mut token = None;
        if let Some(tokens) = &self.tokens {
            match tokens.bearer().await {
                Ok(bearer) => {
                    headers.insert(AUTHORIZATION, bearer.clone());
                    token = Some((tokens, bearer));
                }
                Err(error) => return SendOutcome::no_response(error.to_string()),
            }
        }
        let request = self.client.post(self.url.clone()).headers(headers);
        match request.body(message.body.clone()).send().await {
            Ok(response) => {
                if let Some((tokens, bearer)) = token
                    && response.status() == StatusCode::UNAUTHORIZED
                {
                    // The next attempt fetches a new token.
                    tokens.invalidate(&bearer).await;
                }
                self.read_outcome(response, message.sent_at).await
            }
            Err(error) => SendOutcome::no_response(self.describe(error)),
        }
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let origin = self.url.origin().ascii_serialization();
        let mut head = vec![
            format!("POST {origin}/***"),
            format!("host: {}", self.url.authority()),
        ];
        head.extend(redacted_lines(&self.headers.for_message(message)));
        if self.tokens.is_some() {
            head.push("authorization: ***".to_owned());
        }
        head.push(format!("content-length: {}", message.body.len()));
        head
    }
}

impl HttpSink {
    /// Reads a response. Uses only its status and `Retry-After`.
    async fn read_outcome(&self, response: Response, sent_at: Timestamp) -> SendOutcome {
        let status = response.status();
        let status_code = Some(status.as_u16());
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.to_str().ok()?, sent_at));
        let answer = format!("answered {status}");
        if let Some(proxy) = &self.proxy
            && proxy.refused(&self.url, status)
        {
            // The body is not read, because some proxies reset the connection after the status.
            return SendOutcome::no_response(self.describe_answer(status, answer));
        }
        if let Err(error) = read_capped(response, MAX_RESPONSE_BYTES).await {
            let error = chain(&error.without_url());
            let answer = format!("{answer} with an incomplete response: {error}");
            return SendOutcome {
                status_code,
                ..SendOutcome::no_response(self.describe_answer(status, answer))
            };
        }
        let error = if status.is_success() {
            String::new()
        } else if status.is_redirection() {
            let answer = format!("{answer}, and redirects are not followed");
            self.describe_answer(status, answer)
        } else {
            self.describe_answer(status, answer)
        };
        SendOutcome {
            result: AttemptResult::Response {
                status: status.as_u16(),
                retry_after,
            },
            status_code,
            error,
        }
    }

    /// Returns an answer as text. Through a proxy, it can be the proxy's.
    fn describe_answer(&self, status: StatusCode, answer: String) -> String {
        match &self.proxy {
            Some(proxy) => proxy.describe_answer("the endpoint", &self.url, status, answer),
            None => answer,
        }
    }

    /// Returns an error as text. The URL is left out because it may contain a secret.
    fn describe(&self, error: reqwest::Error) -> String {
        let error = error.without_url();
        match &self.proxy {
            Some(_) => OutboundProxy::describe(&error),
            None => chain(&error),
        }
    }
}

/// Parses the value of `Retry-After`: a number of seconds or a date (RFC 9110, section 10.2.3).
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
    fn parses_retry_after_seconds_and_dates() {
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
