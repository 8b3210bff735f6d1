//! What goes with a message beside its bytes: the endpoint's own headers, the event's id, and the signatures.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use crate::relay::message::Message;
use crate::relay::settings::EndpointSettings;
use crate::signing::{self, Signer};

/// The event's id, as the toolkit's own webhooks tell it.
const EVENT_ID: HeaderName = HeaderName::from_static("x-webhook-event-id");

/// Headers that are ours to set, or that the connection needs.
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

pub(super) struct Headers {
    /// The same for every message, our own content type included.
    fixed: HeaderMap,
    signer: Signer,
}

impl Headers {
    pub(super) fn new(settings: &EndpointSettings) -> Result<Self, String> {
        let signer = Signer::new(&settings.schemes()?, settings.secrets().into_iter())
            .map_err(|error| error.to_string())?;
        let mut fixed = HeaderMap::new();
        fixed.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name).map_err(|_| "has a header without a name")?;
            if RESERVED.contains(&name.as_str()) {
                return Err(format!("sets the header {name}, which is not its to set"));
            }
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| {
                format!("has a value for the header {name} that no header can carry")
            })?;
            value.set_sensitive(true);
            fixed.insert(name, value);
        }
        Ok(Self { fixed, signer })
    }

    /// Sends this one too, unless the settings set it.
    pub(super) fn or(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fixed.entry(name).or_insert(value);
        self
    }

    /// Whether the settings set this one.
    pub(super) fn contain(&self, name: &HeaderName) -> bool {
        self.fixed.contains_key(name)
    }

    /// All headers of this message, signed for these bytes.
    pub(super) fn of(&self, message: &Message) -> HeaderMap {
        let mut headers = self.fixed.clone();
        let signed = signing::Message {
            id: &message.event_id,
            sent_at: message.sent_at,
            body: &message.body,
        };
        let texts = std::iter::once((EVENT_ID, message.event_id.clone()));
        for (name, text) in texts.chain(self.signer.sign(&signed)) {
            // An id that no header can carry is none of ours; its message goes without.
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

/// A line for each, for people; what may be secret, masked.
pub(super) fn lines(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers.iter().map(|(name, value)| {
        let value = if value.is_sensitive() {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        format!("{name}: {value}")
    })
}
