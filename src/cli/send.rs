//! `send`: play Cloudflare. Makes a sample webhook, signs it, posts it to a running service, and prints the answer.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::http::{client, reachable, text};
use super::output::{print_error, print_line};
use crate::clock::{Clock, SystemClock};
use crate::config::{Loaded, Settings};
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::signing::{Message, Scheme};

/// Longer than the service may take over its database.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Send {
    /// Cloudflare's id of the image that the webhook is about
    id: String,
    /// What the webhook looks like
    #[arg(long, value_enum, default_value_t = Shape::Flat)]
    shape: Shape,
    /// How it proves that its sender knows the secret [default: as Cloudflare does, or the first scheme that is on; none where no
    /// secret is configured]
    #[arg(long, value_enum)]
    scheme: Option<Proof>,
    /// Where to post it, with the path [default: the service of these settings, on this machine]
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    /// An image as Cloudflare's API describes it, uploaded
    Flat,
    /// A failed upload
    Failed,
    /// An upload that was asked for and has not come
    Draft,
    /// The event image.uploaded
    Event,
    /// The notification that Cloudflare really sends
    Envelope,
    /// Cloudflare's "Save and Test"
    Test,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Proof {
    Hmac,
    CfWebhookAuth,
    Timestamped,
    Standard,
    /// No proof at all
    None,
}

impl Proof {
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
        let url = self.url.clone().unwrap_or_else(|| url_of(&loaded.settings));
        let mut request = client(DEADLINE)?
            .post(&url)
            .header("content-type", "application/json");
        let proof = self.proof(&loaded.settings, now, body.as_bytes())?;
        let is_unsigned = proof.is_empty();
        for (name, value) in proof {
            request = request.header(name, value);
        }

        let response = request
            .body(body)
            .send()
            .await
            .with_context(|| format!("no answer from {url}; is the service running there?"))?;

        let status = response.status();
        print_line(&status.to_string());
        print_line(&text(response).await?);
        if status == StatusCode::UNAUTHORIZED && is_unsigned && self.scheme.is_none() {
            print_error(
                "hint: no secret is configured here, so none was used; set CLOUDFLARE_WEBHOOK_SECRET to that of the service",
            );
        }
        Ok(if status.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn proof(
        &self,
        settings: &Settings,
        now: Timestamp,
        body: &[u8],
    ) -> anyhow::Result<Vec<(axum::http::HeaderName, String)>> {
        let secret = settings.webhook.secrets().next();
        let scheme = match self.scheme {
            Some(proof) => proof.scheme(),
            None => secret
                .as_ref()
                .map(|_| settings.webhook.schemes.preferred()),
        };
        let Some(scheme) = scheme else {
            return Ok(Vec::new());
        };
        let Some(secret) = secret else {
            bail!(
                "--scheme {} needs a secret, and none is configured: set CLOUDFLARE_WEBHOOK_SECRET",
                scheme.name()
            );
        };
        let id = format!("msg_{}", random::uuid_v4().simple());
        Ok(scheme.sign(
            &secret,
            &Message {
                id: &id,
                sent_at: now,
                body,
            },
        )?)
    }
}

fn url_of(settings: &Settings) -> String {
    format!(
        "http://{}{}",
        reachable(settings.server.listen.get()),
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
            Self::Test => json!({
                "text": "Hello World! This is a test message sent from https://cloudflare.com. If you can see this, your webhook is \
                    configured properly."
            }),
        }
    }
}

fn variant(id: &str, name: &str) -> String {
    let mut url = url::Url::parse("https://imagedelivery.net/Vi7wi5KSItxGFsWRG2Us6Q")
        .expect("a URL that is written here");
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(id).push(name);
    }
    url.to_string()
}
