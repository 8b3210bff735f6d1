//! The effective settings with secrets redacted, as `check-config` prints them.

use ::config::{Value, ValueKind};

use crate::config_types::{is_secret, redacted};

/// A setting with its effective value. Secrets are redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    pub key: String,
    /// The value in TOML syntax. A secret is replaced by `***`, a URL by its scheme and host.
    pub value: String,
    /// The source of the value: a file, or an environment variable.
    pub origin: String,
}

/// Returns all settings, sorted by key.
pub(super) fn all(root: &Value) -> Vec<EffectiveSetting> {
    let mut settings = Vec::new();
    collect("", root, "the configuration", &mut settings);
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    settings
}

/// Collects a value, or the values of a table or of a list of tables. A value without an origin gets the origin of its list.
fn collect(key: &str, value: &Value, outer_origin: &str, settings: &mut Vec<EffectiveSetting>) {
    let origin = value.origin().unwrap_or(outer_origin);
    let is_table = |value: &Value| matches!(value.kind, ValueKind::Table(_));
    match &value.kind {
        ValueKind::Table(table) => {
            let prefix = if key.is_empty() {
                ""
            } else {
                &format!("{key}.")
            };
            for (name, value) in table {
                collect(&format!("{prefix}{name}"), value, origin, settings);
            }
        }
        ValueKind::Array(items) if items.iter().any(is_table) => {
            for (number, item) in items.iter().enumerate() {
                collect(&format!("{key}[{number}]"), item, origin, settings);
            }
        }
        kind => settings.push(EffectiveSetting {
            key: key.to_owned(),
            value: redacted_toml(key, kind),
            origin: origin.to_owned(),
        }),
    }
}

/// Returns a value in TOML syntax, redacted if its key is secret.
fn redacted_toml(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::Array(values) => {
            let values = values.iter().map(|value| redacted_toml(key, &value.kind));
            format!("[{}]", values.collect::<Vec<_>>().join(", "))
        }
        ValueKind::String(text) if is_secret(key) => format!("{:?}", redacted(key, text)),
        ValueKind::String(text) => format!("{text:?}"),
        _ if is_secret(key) => "\"***\"".to_owned(),
        scalar => scalar.to_string(),
    }
}
