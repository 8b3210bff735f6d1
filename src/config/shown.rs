//! The configuration without its secrets, as `check-config` prints it.

use ::config::{Value, ValueKind};

use crate::config_types::{is_secret, redacted};

/// A setting without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    pub key: String,
    /// The value as TOML writes it. A secret is replaced by stars.
    pub value: String,
    pub origin: String,
}

/// Returns every setting under its key, sorted.
pub(super) fn all(root: &Value) -> Vec<EffectiveSetting> {
    let mut shown = Vec::new();
    collect("", root, "the configuration", &mut shown);
    shown.sort_by(|a, b| a.key.cmp(&b.key));
    shown
}

/// Collects a value, or the values of a table or of a list of tables. Values without an origin have that of their list.
fn collect(key: &str, value: &Value, outer_origin: &str, shown: &mut Vec<EffectiveSetting>) {
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
                collect(&format!("{prefix}{name}"), value, origin, shown);
            }
        }
        ValueKind::Array(items) if items.iter().any(is_table) => {
            for (number, item) in items.iter().enumerate() {
                collect(&format!("{key}[{number}]"), item, origin, shown);
            }
        }
        kind => shown.push(EffectiveSetting {
            key: key.to_owned(),
            value: written(key, kind),
            origin: origin.to_owned(),
        }),
    }
}

fn written(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::Array(values) => {
            let values = values.iter().map(|value| written(key, &value.kind));
            format!("[{}]", values.collect::<Vec<_>>().join(", "))
        }
        ValueKind::String(text) if is_secret(key) => format!("{:?}", redacted(key, text)),
        ValueKind::String(text) => format!("{text:?}"),
        _ if is_secret(key) => "\"***\"".to_owned(),
        plain => plain.to_string(),
    }
}
