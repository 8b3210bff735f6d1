//! `send`: acts as Cloudflare. Sends a sample webhook with the secret or a signature to a running service, and prints the response.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::http::{client, local_address, read_text};
use super::output::print_line;
use crate::application::doctor::TEST_MESSAGE;
use crate::clock::{Clock, SystemClock};
use crate::config::{Loaded, Settings};
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::signing::{Message, Scheme};
use crate::telemetry;

/// The deadline of the request. Longer than the default `database.timeout_secs`.
const DEADLINE: Duration = Duration::from_secs(30);

/// The arguments of `send`.
#[derive(Debug, clap::Args)]
pub(super) struct Send {
    /// Cloudflare id of the image
    id: String,
    /// Shape of the webhook
    #[arg(long, value_enum, default_value_t = Shape::Flat)]
    shape: Shape,
    /// Authentication scheme [default: cf-webhook-auth if it is in webhook.schemes, or else the first one there; none without a
    /// secret]
    #[arg(long, value_enum)]
    scheme: Option<SchemeChoice>,
    /// URL of the webhook, with its path [default: the configured port and path on this machine]
    #[arg(long)]
    url: Option<String>,
}

/// The shape of a sample webhook.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    /// Uploaded image, as Cloudflare's API describes it
    Flat,
    /// Failed upload
    Failed,
    /// Direct upload that has not arrived yet
    Draft,
    /// Event image.uploaded
    Event,
    /// Notification as Cloudflare really sends it
    Envelope,
    /// Test message of Cloudflare's "Save and Test"
    Test,
}

/// The choice of `--scheme`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SchemeChoice {
    Hmac,
    CfWebhookAuth,
    Timestamped,
    Standard,
    /// No authentication
    None,
}

impl SchemeChoice {
    fn scheme(self) -> Option<Scheme> {
        match self {
            Self::Hmac => Some(Scheme::Hmac),
            Self::CfWebhookAuth => Some(Scheme::CfWebhookAuth),
            Self::Timestamped => Some(Scheme::Timestamped),
            Self::Standard => Some(Scheme::Standard),
            Self::None => None,
        }
    }
}

impl Send {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let now = SystemClock.now();
        let body = self.shape.sample(&self.id, now).to_string();
        let url = self
            .url
            .clone()
            .unwrap_or_else(|| webhook_url(&loaded.settings));
        let mut request = client(DEADLINE)?
            .post(&url)
            .header("content-type", "application/json");
        let credentials = self.credentials(&loaded.settings, now, body.as_bytes())?;
        let is_unsigned = credentials.is_empty();
        for (name, value) in credentials {
            request = request.header(name, value);
        }

        let response = request.body(body).send().await.with_context(|| {
            format!("no response from {url}; check that the service runs there")
        })?;

        let status = response.status();
        print_line(&status.to_string());
        print_line(&read_text(response).await?);
        if status == StatusCode::UNAUTHORIZED && is_unsigned && self.scheme.is_none() {
            telemetry::print_line(
                "hint: the webhook was sent without a signature, because no secret is configured. Set CLOUDFLARE_WEBHOOK_SECRET to the \
                 service's secret.",
            );
        }
        Ok(if status.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Returns the headers that authenticate the webhook; none without a secret.
    fn credentials(
        &self,
        settings: &Settings,
        now: Timestamp,
        body: &[u8],
    ) -> anyhow::Result<Vec<(axum::http::HeaderName, String)>> {
        let secret = settings.webhook.secrets().next();
        let scheme = match self.scheme {
            Some(choice) => choice.scheme(),
            None => secret
                .as_ref()
                .map(|_| settings.webhook.schemes.preferred()),
        };
        let Some(scheme) = scheme else {
            return Ok(Vec::new());
        };
        let Some(secret) = secret else {
            bail!(
                "--scheme {} needs a secret, and none is configured. Set CLOUDFLARE_WEBHOOK_SECRET.",
                scheme.name()
            );
        };
        let id = format!("msg_{}", random::uuid_v4().simple());
        let message = Message {
            id: &id,
            sent_at: now,
            body,
        };
        scheme
            .sign(&secret, &message)
            .map_err(|error| anyhow::anyhow!("the secret {error}"))
    }
}

/// Returns the URL of the configured webhook on this machine.
fn webhook_url(settings: &Settings) -> String {
    format!(
        "http://{}{}",
        local_address(settings.server.listen.get()),
        settings.webhook.path.canonical()
    )
}

impl Shape {
    fn sample(self, id: &str, now: Timestamp) -> Value {
        let time = now.to_string();
        let variants = json!([variant(id, "public"), variant(id, "thumbnail")]);
        match self {
            Self::Flat => json!({
                "id": id, "uploaded": time, "variants": variants, "metadata": {"key": "value"}, "requireSignedURLs": true,
            }),
            Self::Failed => {
                json!({"id": id, "error": "Image processing failed", "timestamp": time})
            }
            Self::Draft => {
                json!({"id": id, "draft": true, "uploaded": time, "requireSignedURLs": true})
            }
            Self::Event => json!({
                "event": "image.uploaded", "timestamp": time, "accountId": "abc123",
                "image": {
                    "id": id, "filename": "profile.jpg", "uploaded": time, "requireSignedURLs": false, "variants": variants,
                    "metadata": {"userId": "user_12345", "source": "profile_upload"},
                },
            }),
            Self::Envelope => json!({
                "name": "Images uploads", "text": "An image was uploaded", "ts": now.unix_seconds(),
                "data": {"image": {"id": id, "status": "success"}},
                "account_id": "abc123", "policy_id": "c4b3a2", "alert_type": "image_notification",
            }),
            Self::Test => json!({"text": TEST_MESSAGE}),
        }
    }
}

fn variant(id: &str, name: &str) -> String {
    let mut url = url::Url::parse("https://imagedelivery.net/Vi7wi5KSItxGFsWRG2Us6Q")
        .expect("the literal is a URL");
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(id).push(name);
    }
    url.to_string()
}
