//! `cloudflare setup`.

use anyhow::bail;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::super::output::print_line;
use super::steps::print_step;
use crate::application::cloudflare::{self, DEFAULT_NAME, SetupRequest};
use crate::cloudflare::Client;
use crate::config::Loaded;
use crate::random::uuid_v4;

/// The ports that Cloudflare sends webhooks to.
const ALLOWED_PORTS: [u16; 2] = [80, 443];

/// The options of `cloudflare setup`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Setup {
    /// Public URL of the webhook
    #[arg(long, value_name = "URL")]
    url: String,
    /// Name of what is created; what exists keeps its name
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Setup {
    pub(super) async fn run(self, client: &Client, loaded: &Loaded) -> anyhow::Result<()> {
        self.check_url(loaded)?;
        let configured = loaded.settings.webhook.secrets().next();
        let is_generated = configured.is_none();
        let secret = configured.unwrap_or_else(generated_secret);
        let request = SetupRequest {
            url: &self.url,
            name: &self.name,
            secret: &secret,
            is_dry_run: self.dry_run,
        };
        let report = &mut |step| print_step(&step, self.dry_run);
        cloudflare::setup(client, &request, report).await?;
        match (self.dry_run, is_generated) {
            (true, true) => {
                print_line("would generate a secret, because CLOUDFLARE_WEBHOOK_SECRET is not set");
            }
            (true, false) => {}
            (false, true) => print_line(&format!(
                "\nCloudflare now sends a new secret, which is printed only here. Set it for every replica, and restart:\n\n\
                 CLOUDFLARE_WEBHOOK_SECRET={}",
                secret.expose_secret()
            )),
            (false, false) => print_line("Cloudflare sends the first secret of webhook.secrets"),
        }
        Ok(())
    }

    /// Fails if the URL is no URL. Prints why Cloudflare may not send to it.
    fn check_url(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let parsed = Url::parse(&self.url).ok();
        let url = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = url else {
            bail!(
                "--url must be a URL such as https://images.example.com/cloudflare-images/api/webhook/"
            );
        };
        let path = loaded.settings.webhook.path.canonical();
        if url.path().trim_end_matches('/') != path.trim_end_matches('/') {
            print_line(&format!(
                "warning: the path of the URL is not {path} (webhook.path). That works only if a proxy changes it."
            ));
        }
        let port = url.port_or_known_default();
        if !port.is_some_and(|port| ALLOWED_PORTS.contains(&port)) {
            print_line("warning: Cloudflare sends webhooks only to the ports 80 and 443");
        }
        if url.scheme() == "http" {
            print_line("warning: without HTTPS, others can read the secret");
        }
        Ok(())
    }
}

/// Returns a secret of 64 hexadecimal digits, with 244 random bits.
fn generated_secret() -> SecretString {
    format!("{}{}", uuid_v4().simple(), uuid_v4().simple()).into()
}
