//! `verify`: does a signature hold, and if not, why? For whoever builds a sender or a subscriber.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;

use super::output::{print_error, print_line};
use crate::clock::{Clock, SystemClock};
use crate::config::Loaded;
use crate::config_types::read_file;
use crate::domain::timestamp::Timestamp;
use crate::signing::{Diagnosis, diagnose};

/// The largest body that is read from standard input, as that of a file.
const MAX_BODY_BYTES: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The body, to the byte as it was sent; - for standard input
    body: PathBuf,
    /// A header of the request, as "Name: value"; several
    #[arg(long = "header", value_name = "HEADER", required = true)]
    headers: Vec<String>,
    /// The secret; whoever lists this machine's processes can see it [default: those of the settings]
    #[arg(long)]
    secret: Option<String>,
    /// A file with the secret
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
    /// When the request came, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    at: Option<i64>,
}

impl Verify {
    pub(super) fn run(self, loaded: &Loaded) -> anyhow::Result<ExitCode> {
        let secrets = self.secrets(loaded)?;
        let headers = headers(&self.headers)?;
        let body = body(&self.body)?;
        let came_at = match self.at {
            Some(seconds) => Timestamp::from_unix_seconds(seconds).context("--at is no time")?,
            None => SystemClock.now(),
        };
        let tolerance = loaded.settings.webhook.timestamp_tolerance_secs.seconds();

        let (mut tried, mut holds) = (false, false);
        for (number, secret) in (1..).zip(&secrets) {
            let findings = diagnose(secret, &headers, &body, came_at, tolerance)
                .map_err(|error| anyhow::anyhow!("the secret {number} {error}"))?;
            for (scheme, finding) in findings {
                tried = true;
                holds |= finding == Diagnosis::Valid;
                let which = if secrets.len() > 1 {
                    format!(" (secret {number})")
                } else {
                    String::new()
                };
                print_line(&format!("{}{which}: {finding}", scheme.name()));
            }
        }
        if !tried {
            print_error(
                "none of these headers is a proof: there has to be cf-webhook-auth, x-signature, x-cloudflare-signature, \
                 x-webhook-signature or webhook-signature",
            );
        }
        Ok(if holds {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn secrets(&self, loaded: &Loaded) -> anyhow::Result<Vec<SecretString>> {
        let secrets: Vec<SecretString> = match (&self.secret, &self.secret_file) {
            (Some(secret), _) => vec![SecretString::from(secret.as_str())],
            (None, Some(file)) => {
                let text = read_file(file)
                    .with_context(|| format!("{} cannot be read", file.display()))?;
                vec![SecretString::from(text.trim())]
            }
            (None, None) => loaded.settings.webhook.secrets().collect(),
        };
        if secrets.is_empty() {
            bail!(
                "there is no secret: give --secret or --secret-file, or set CLOUDFLARE_WEBHOOK_SECRET"
            );
        }
        Ok(secrets)
    }
}

/// The headers. Values are not repeated in what is wrong with one: they can be secret.
fn headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .context("a --header is no \"Name: value\"")?;
        let name: HeaderName = name
            .trim()
            .parse()
            .context("the name of a --header has letters that no header's name has")?;
        let value = HeaderValue::from_str(value.trim()).with_context(|| {
            format!("the value of the header {name} has letters that none can have")
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn body(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let limit = MAX_BODY_BYTES + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut body)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut body))
    };
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    if body.len() as u64 > MAX_BODY_BYTES {
        bail!("{} has more than {MAX_BODY_BYTES} bytes", file.display());
    }
    Ok(body)
}
