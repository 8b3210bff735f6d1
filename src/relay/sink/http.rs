//! Over HTTP: one POST a try.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::{Attempted, Sink};
use crate::clock::Clock;
use crate::domain::delivery::Tried;
use crate::domain::timestamp::Timestamp;
use crate::relay::endpoint::Endpoint;
use crate::relay::message::Message;
use crate::signing;
use crate::telemetry::chain;

/// The most that is read of an answer, so that its connection can be used again. Nothing in it counts.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The event's id, as the toolkit's own webhooks tell it.
const EVENT_ID: &str = "x-webhook-event-id";

pub(super) struct HttpSink {
    endpoint: Arc<Endpoint>,
    clock: Arc<dyn Clock>,
}

impl HttpSink {
    pub(super) fn new(endpoint: Arc<Endpoint>, clock: Arc<dyn Clock>) -> Self {
        Self { endpoint, clock }
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: &Message) -> Attempted {
        let mut request = self.request(message);
        let mut token = None;
        if let Some(tokens) = &self.endpoint.tokens {
            match tokens.bearer().await {
                Ok(bearer) => {
                    request = request.header(AUTHORIZATION, bearer.clone());
                    token = Some((tokens, bearer));
                }
                Err(error) => return Attempted::unanswered(error.to_string()),
            }
        }
        match request.body(message.body.clone()).send().await {
            Ok(response) => {
                if let Some((tokens, bearer)) = token
                    && response.status() == StatusCode::UNAUTHORIZED
                {
                    // The next try gets another.
                    tokens.forget(&bearer).await;
                }
                answered(response, self.clock.now()).await
            }
            // Not with the URL: what is secret can stand in it.
            Err(error) => Attempted::unanswered(chain(&error.without_url())),
        }
    }

    fn head(&self, message: &Message) -> Vec<String> {
        let origin = self.endpoint.url.origin().ascii_serialization();
        let mut head = vec![format!("POST {origin}/***")];
        if let Ok(request) = self.request(message).build() {
            head.extend(request.headers().iter().map(|(name, value)| {
                let value = if value.is_sensitive() {
                    "***".into()
                } else {
                    String::from_utf8_lossy(value.as_bytes())
                };
                format!("{name}: {value}")
            }));
        }
        if self.endpoint.tokens.is_some() {
            head.push("authorization: ***".to_owned());
        }
        head
    }
}

impl HttpSink {
    /// Everything but the body.
    fn request(&self, message: &Message) -> RequestBuilder {
        let endpoint = &self.endpoint;
        let mut request = endpoint
            .client
            .post(endpoint.url.clone())
            .headers(endpoint.headers.clone())
            .header(EVENT_ID, &message.event_id);
        let signed = signing::Message {
            id: &message.event_id,
            sent_at: self.clock.now(),
            body: &message.body,
        };
        for (name, value) in endpoint.signer.sign(&signed) {
            request = request.header(name, value);
        }
        request
    }
}

async fn answered(mut response: Response, now: Timestamp) -> Attempted {
    let status = response.status();
    let status_code = Some(status.as_u16());
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, now));
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
