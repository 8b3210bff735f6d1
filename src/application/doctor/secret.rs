//! The check of the secret that proves the sender.

use secrecy::{ExposeSecret, SecretString};

use super::check::{Check, CheckName};
use super::installation::{Installation, Strictness};
use crate::signing::{Scheme, key_bytes};

/// The shortest secret without a warning, as in the warnings of the configuration.
const MIN_BYTES: usize = 16;

/// The fewest different characters of a random secret. A random one of 16 decimal digits has fewer in 1 of 100 cases.
const MIN_DIFFERENT_CHARACTERS: usize = 6;

/// Words in secrets that somebody copied from an example and forgot to replace.
const EXAMPLE_WORDS: [&str; 8] = [
    "changeme",
    "change-me",
    "change_me",
    "your-secret",
    "your_secret",
    "replace",
    "password",
    "example",
];

const NAME: CheckName = CheckName::Secret;

const MAKE_ONE: &str = "Make one with `openssl rand -hex 32`, set CLOUDFLARE_WEBHOOK_SECRET to it, and run `cloudflare setup`.";

pub(super) fn check(installation: &Installation<'_>) -> Check {
    let problem = |found: String| match installation.strictness {
        Strictness::Production => Check::error(NAME, found, MAKE_ONE),
        Strictness::Development => Check::warning(NAME, found, MAKE_ONE),
    };
    let secrets: Vec<SecretString> = installation.webhook.secrets().collect();
    if secrets.is_empty() {
        return problem("no secret is set, so anybody can send webhooks".to_owned());
    }
    if let Some(weakness) = secrets.iter().find_map(weakness) {
        return problem(format!("a secret is weak: {weakness}"));
    }
    if installation.webhook.schemes.preferred() != Scheme::CfWebhookAuth {
        return Check::warning(
            NAME,
            "webhook.schemes lacks cf-webhook-auth, the only scheme that Cloudflare uses",
            "Add cf-webhook-auth to webhook.schemes, unless another program sends the webhooks.",
        );
    }
    Check::ok(
        NAME,
        match secrets.len() {
            1 => "one secret is set".to_owned(),
            count => format!("{count} secrets are set"),
        },
    )
}

/// Returns why somebody could guess the secret. Says nothing about the secret itself.
fn weakness(secret: &SecretString) -> Option<&'static str> {
    let text = secret.expose_secret().to_ascii_lowercase();
    let mut characters: Vec<char> = text.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    if key_bytes(secret) < MIN_BYTES {
        Some("it has fewer than 16 bytes")
    } else if characters.len() < MIN_DIFFERENT_CHARACTERS {
        Some("it repeats few characters")
    } else if EXAMPLE_WORDS.iter().any(|word| text.contains(word)) {
        Some("it looks like an example")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_weak_secrets() {
        for (secret, is_weak) in [
            ("0123456789abcde", true),
            ("0123456789abcdef", false),
            ("aaaaaaaabbbbbbbbcccccccc", true),
            ("Your-Secret-of-this-service", true),
            ("K7o2 sMaz 9qLp 31xV", false),
        ] {
            assert_eq!(weakness(&secret.into()).is_some(), is_weak, "{secret}");
        }
    }
}
