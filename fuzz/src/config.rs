//! Invariants of any environment and any settings file.
//!
//! An input has one environment variable per line, an empty line, and a settings file.

use std::fs;
use std::sync::LazyLock;

use cloudflare_images_webhook::config::{Environment, load};
use tempfile::TempDir;

/// The secret in the samples.
const SECRET: &str = "TOP-SECRET";

/// Loads the settings and checks the invariants. Loading either succeeds or returns a message.
/// Neither the shown settings nor the message contain a secret.
///
/// Returns whether the settings are valid.
pub fn check(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let (variables, file) = text.split_once("\n\n").unwrap_or((&text, ""));
    let environment: Environment = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let path = FOLDER.path().join("settings.toml");
    fs::write(&path, file).expect("a file");

    match load(&environment, Some(&path)) {
        Ok(loaded) => {
            let _refusal = loaded.check_profile();
            for setting in loaded.effective_settings() {
                let is_leaked = match setting.key.as_str() {
                    "webhook.secrets" | "webhook.previous_secret" => setting.value.contains(SECRET),
                    // The other parts of a URL are not secret, and a SQLite URL has no secret.
                    "database.url" => {
                        !setting.value.starts_with("\"sqlite:")
                            && setting.value.contains(&format!(":{SECRET}@"))
                    }
                    _ => false,
                };
                assert!(!is_leaked, "{} = {}", setting.key, setting.value);
            }
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty());
            assert!(
                !message.contains(SECRET) || is_a_name(&environment, file),
                "{message}"
            );
            false
        }
    }
}

/// Returns whether the secret is also the name of a variable or a key. Messages repeat such names.
fn is_a_name(environment: &Environment, file: &str) -> bool {
    // The Debug form of the environment contains only names.
    format!("{environment:?}").contains(SECRET)
        || file.lines().any(|line| {
            let name = line.split('=').next().unwrap_or_default();
            name.contains(SECRET)
        })
}

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::with_prefix("images-webhook-fuzz-").expect("a folder"));
