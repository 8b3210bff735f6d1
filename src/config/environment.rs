//! The environment as a source: `APP__SECTION__KEY` for every key, and the short names that people expect.

use std::collections::BTreeMap;

use ::config::{Map, Value, ValueKind};

use super::endpoints::ENDPOINTS;
use super::error::ConfigError;
use super::layer::{KnownKeys, Layer};

const PREFIX: &str = "APP__";

/// The short names and the keys they set. An `APP__…` variable for the same key wins, being the more exact. `PORT` is no
/// alias: it sets a part of a value.
const SHORT_NAMES: [(&str, &str); 7] = [
    ("DATABASE_URL", "database.url"),
    ("DATABASE_URL_FILE", "database.url_file"),
    ("CLOUDFLARE_WEBHOOK_SECRET", "webhook.secrets"),
    ("CLOUDFLARE_WEBHOOK_SECRET_FILE", "webhook.secrets_file"),
    (
        "CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS",
        "webhook.previous_secret",
    ),
    (
        "CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS_FILE",
        "webhook.previous_secret_file",
    ),
    ("RUST_LOG", "log.filter"),
];

/// Environment variables, taken once, so that a test can bring its own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    not_unicode: Vec<String>,
}

impl Environment {
    /// The environment of this process.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads environment variables"
    )]
    #[must_use]
    pub fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name, value)),
                Err(_) => environment.not_unicode.push(name),
            }
        }
        environment
    }

    /// A variable's value. A variable that is set to nothing counts as not set, as compose files and platforms mean it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The port in `PORT`.
    pub(super) fn port(&self) -> Result<Option<u16>, ConfigError> {
        let Some(port) = self.get("PORT") else {
            return Ok(None);
        };
        port.parse().map(Some).map_err(|_| ConfigError::Setting {
            key: "server.listen".to_owned(),
            origin: "the environment variable PORT".to_owned(),
            problem: "must have a port from 0 to 65535".to_owned(),
        })
    }

    /// The values that the environment sets.
    pub(super) fn layer(&self, known: &KnownKeys) -> Result<Layer, ConfigError> {
        self.check_unicode()?;
        let mut layer = Layer::default();
        for (name, key) in SHORT_NAMES {
            let Some(value) = self.get(name) else {
                continue;
            };
            let value = if key == "webhook.secrets" {
                vec![Value::from(value)].into()
            } else {
                ValueKind::from(value)
            };
            layer.set(key, value, &origin(name));
        }
        for name in self.variables.keys() {
            let (Some(path), Some(value)) = (name.strip_prefix(PREFIX), self.get(name)) else {
                continue;
            };
            let key = path.to_lowercase().replace("__", ".");
            let value = if key == ENDPOINTS {
                tables(name, value)?
            } else if known.is_list(&key) {
                list(&key, name, value)?
            } else {
                ValueKind::from(value)
            };
            layer.set(&key, value, &origin(name));
        }
        layer.read_secret_files("the environment")?;
        Ok(layer)
    }

    fn check_unicode(&self) -> Result<(), ConfigError> {
        let is_ours = |name: &&String| {
            name.starts_with(PREFIX)
                || ["PORT", "APP_PROFILE"].contains(&name.as_str())
                || SHORT_NAMES.iter().any(|(short, _)| short == name)
        };
        self.not_unicode
            .iter()
            .find(is_ours)
            .map_or(Ok(()), |name| {
                Err(ConfigError::NotUnicode { name: name.clone() })
            })
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            not_unicode: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Environment {
    /// The names alone: values can be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

fn origin(name: &str) -> String {
    format!("the environment variable {name}")
}

/// A list of tables is a JSON array of objects.
fn tables(name: &str, value: &str) -> Result<ValueKind, ConfigError> {
    let tables: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(value)
        .map_err(|_| ConfigError::Setting {
            key: ENDPOINTS.to_owned(),
            origin: origin(name),
            problem: "must be a JSON array of objects".to_owned(),
        })?;
    let tables = tables
        .into_iter()
        .map(|table| of_json(serde_json::Value::Object(table), name));
    Ok(tables.collect::<Vec<_>>().into())
}

fn of_json(value: serde_json::Value, name: &str) -> Value {
    let kind: ValueKind = match value {
        serde_json::Value::Null => ValueKind::Nil,
        serde_json::Value::Bool(truth) => truth.into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(values) => values
            .into_iter()
            .map(|value| of_json(value, name))
            .collect::<Vec<_>>()
            .into(),
        serde_json::Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, of_json(value, name)))
            .collect::<Map<_, _>>()
            .into(),
    };
    Value::new(Some(&origin(name)), kind)
}

/// A list is a JSON array of texts, or texts between commas; for secrets, a JSON array or one secret.
fn list(key: &str, name: &str, value: &str) -> Result<ValueKind, ConfigError> {
    let texts: Vec<String> = if key == "webhook.secrets" && !value.starts_with('[') {
        // A secret may have commas, and a part of one must never be one.
        vec![value.to_owned()]
    } else if value.trim_start().starts_with('[') {
        serde_json::from_str(value).map_err(|_| ConfigError::Setting {
            key: key.to_owned(),
            origin: origin(name),
            problem: "must be a JSON array of texts, or texts between commas".to_owned(),
        })?
    } else {
        value
            .split(',')
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect()
    };
    Ok(texts
        .into_iter()
        .map(Value::from)
        .collect::<Vec<_>>()
        .into())
}
