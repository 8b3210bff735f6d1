//! The headers of a message: the configured headers, the event's id and the signatures.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use crate::relay::settings::EndpointSettings;
use crate::signing::{self, Signer};

use super::sink::Message;

/// The header with the event's id, as in the Django toolkit's webhooks.
const EVENT_ID_HEADER: HeaderName = HeaderName::from_static("x-webhook-event-id");

/// The headers that cannot be configured, because the service or the protocol sets them.
const RESERVED: [&str; 13] = [
    "connection",
    "content-length",
    "host",
    "nats-msg-id",
    "te",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-webhook-event-id",
    "x-webhook-signature",
    "x-webhook-timestamp",
];

/// The headers of an endpoint's messages.
pub(super) struct MessageHeaders {
    /// The headers that are the same for every message.
    fixed: HeaderMap,
    signer: Signer,
}

impl MessageHeaders {
    /// Checks the configured headers. The error is a clause that names the setting.
    pub(super) fn new(settings: &EndpointSettings) -> Result<Self, String> {
        let signer = Signer::new(&settings.schemes()?, settings.secrets().into_iter())
            .map_err(|error| format!("secret {error}"))?;
        let mut fixed = HeaderMap::new();
        fixed.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name)
                .map_err(|_| "headers has a name that HTTP does not allow")?;
            if RESERVED.contains(&name.as_str()) {
                return Err(format!(
                    "headers cannot set {name}, because the service sets it"
                ));
            }
            let mut value = HeaderValue::try_from(value.expose_secret())
                .map_err(|_| format!("headers has a value for {name} that HTTP does not allow"))?;
            value.set_sensitive(true);
            fixed.insert(name, value);
        }
        Ok(Self { fixed, signer })
    }

    /// Adds a header, unless it is configured.
    pub(super) fn with_default(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fixed.entry(name).or_insert(value);
        self
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.fixed.contains_key(name)
    }

    /// Returns the headers of a message, with the signatures of its body.
    pub(super) fn for_message(&self, message: &Message) -> HeaderMap {
        let mut headers = self.fixed.clone();
        let signed = signing::Message {
            id: &message.event_id,
            sent_at: message.sent_at,
            body: &message.body,
        };
        let event_id = std::iter::once((EVENT_ID_HEADER, message.event_id.clone()));
        for (name, text) in event_id.chain(self.signer.sign(&signed)) {
            // Only an event id from a file for `endpoints preview` can be invalid as a header. It is left out.
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

/// Returns one line per header, for display. Secret values are redacted.
pub(super) fn redacted_lines(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers.iter().map(|(name, value)| {
        let value = if value.is_sensitive() {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        format!("{name}: {value}")
    })
}
