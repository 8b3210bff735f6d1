//! `verify`: checks a signature and explains a failure, for developers of senders and subscribers.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;

use super::output::print_line;
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::config_types::read_file;
use crate::domain::timestamp::Timestamp;
use crate::signing::{Diagnosis, diagnose};
use crate::telemetry;

/// The largest body that is read, from a file or from standard input.
const MAX_BODY_BYTES: u64 = 1024 * 1024;

/// The arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// File with the exact bytes of the body; - for standard input
    body: PathBuf,
    /// Header of the request, as "Name: value"; can be repeated
    #[arg(long = "header", value_name = "HEADER", required = true)]
    headers: Vec<String>,
    /// Secret; users of this machine can see it in the process list [default: the configured secrets]
    #[arg(long)]
    secret: Option<String>,
    /// File with the secret
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
    /// Time of receipt, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    at: Option<i64>,
}

impl Verify {
    pub(super) fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let secrets = self.secrets(loaded)?;
        let headers = parse_headers(&self.headers)?;
        let body = read_body(&self.body)?;
        let received_at = match self.at {
            Some(seconds) => {
                Timestamp::from_unix_seconds(seconds).context("--at is out of range")?
            }
            None => SystemClock.now(),
        };
        let tolerance = loaded.settings.webhook.timestamp_tolerance_secs.seconds();

        let (mut has_credentials, mut is_valid) = (false, false);
        for (number, secret) in (1..).zip(&secrets) {
            let diagnoses = diagnose(secret, &headers, &body, received_at, tolerance)
                .map_err(|error| anyhow::anyhow!("secret {number}: {error}"))?;
            for (scheme, diagnosis) in diagnoses {
                has_credentials = true;
                is_valid |= diagnosis == Diagnosis::Valid;
                let label = if secrets.len() > 1 {
                    format!(" (secret {number})")
                } else {
                    String::new()
                };
                print_line(&format!("{}{label}: {diagnosis}", scheme.name()));
            }
        }
        if !has_credentials {
            telemetry::print_line(
                "no --header has a signature or a secret. Use cf-webhook-auth, x-signature, x-cloudflare-signature, \
                 x-webhook-signature or webhook-signature.",
            );
        }
        Ok(if is_valid {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn secrets(&self, loaded: &Loaded) -> anyhow::Result<Vec<SecretString>> {
        let secrets: Vec<SecretString> = match (&self.secret, &self.secret_file) {
            (Some(secret), _) => vec![SecretString::from(secret.as_str())],
            (None, Some(file)) => {
                let text =
                    read_file(file).with_context(|| format!("cannot read {}", file.display()))?;
                vec![SecretString::from(text.trim())]
            }
            (None, None) => loaded.settings.webhook.secrets().collect(),
        };
        if secrets.is_empty() {
            bail!("no secret is set. Use --secret, --secret-file or CLOUDFLARE_WEBHOOK_SECRET.");
        }
        Ok(secrets)
    }
}

/// Parses the headers. Errors do not repeat values, because they can be secret.
fn parse_headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .context("a --header is not \"Name: value\"")?;
        let name: HeaderName = name
            .trim()
            .parse()
            .context("the name of a --header has invalid characters")?;
        let value = HeaderValue::from_str(value.trim())
            .with_context(|| format!("the value of the header {name} has invalid characters"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Reads the body from a file, or from standard input for `-`.
fn read_body(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let limit = MAX_BODY_BYTES + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut body)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut body))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    if body.len() as u64 > MAX_BODY_BYTES {
        bail!("{} is larger than {MAX_BODY_BYTES} bytes", file.display());
    }
    Ok(body)
}
