//! What must hold of any environment and any file of settings.
//!
//! An input is environment variables, a line each, an empty line, and a file of settings.

use std::fs;
use std::sync::LazyLock;

use cloudflare_images_webhook::config::{Environment, load};
use tempfile::TempDir;

/// What stands for a secret in the samples.
const SECRET: &str = "TOP-SECRET";

/// Loads them, and panics when something does not hold: there are settings, or one sentence that names what is wrong; and
/// nothing that is shown or said has a secret in it.
///
/// Returns whether they are right.
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
            for shown in loaded.shown() {
                let is_said = match shown.key.as_str() {
                    "webhook.secrets" | "webhook.previous_secret" => shown.value.contains(SECRET),
                    // Its other parts are no secrets, and a file has none.
                    "database.url" => {
                        !shown.value.starts_with("\"sqlite:")
                            && shown.value.contains(&format!(":{SECRET}@"))
                    }
                    _ => false,
                };
                assert!(!is_said, "{} = {}", shown.key, shown.value);
            }
            true
        }
        Err(error) => {
            let sentence = error.to_string();
            assert!(!sentence.is_empty());
            assert!(
                !sentence.contains(SECRET) || names_it(&environment, file),
                "{sentence}"
            );
            false
        }
    }
}

/// Whether the secret's letters are a name: of a variable or a key, which are repeated.
fn names_it(environment: &Environment, file: &str) -> bool {
    // The environment's Debug has the names alone.
    format!("{environment:?}").contains(SECRET)
        || file.lines().any(|line| {
            let name = line.split('=').next().unwrap_or_default();
            name.contains(SECRET)
        })
}

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::with_prefix("images-webhook-fuzz-").expect("a folder"));
