//! One source of values: a flat table of keys, each value with its origin.

use std::collections::{BTreeMap, BTreeSet};

use ::config::{ConfigError as Foreign, Map, Source, Value, ValueKind};

use super::error::ConfigError;
use crate::setting::read_file;

/// The key of the database's URL, which holds a secret among other things.
pub(super) const DATABASE_URL: &str = "database.url";

/// The keys whose values are secret: never shown, and each with a twin `…_file` that names a file to read it from.
pub(super) const SECRET_KEYS: [&str; 7] = [
    "database.url",
    "webhook.secrets",
    "webhook.previous_secret",
    "relay.failure_url",
    "relay.failure_secret",
    "relay.monitoring.alert_url",
    "relay.monitoring.alert_secret",
];

/// The values of one source, under their dotted keys. Lists are values; tables are not.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    values: BTreeMap<String, Value>,
}

impl Layer {
    /// A layer of one value.
    pub(super) fn single(key: &str, value: String, origin: &str) -> Self {
        let mut layer = Self::default();
        layer.set(key, value, origin);
        layer
    }

    /// The values of a TOML document.
    pub(super) fn of_toml(text: &str, file: &str) -> Result<Self, ConfigError> {
        let document: toml::Table = toml::from_str(text).map_err(|error| {
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            ConfigError::NotToml {
                file: file.to_owned(),
                line: 1 + before.matches('\n').count(),
                problem: error.message().to_owned(),
            }
        })?;
        let mut layer = Self::default();
        layer.flatten("", document, file);
        layer.read_secret_files(file)?;
        Ok(layer)
    }

    /// Sets a value.
    pub(super) fn set(&mut self, key: &str, value: impl Into<ValueKind>, origin: &str) {
        self.values.insert(
            key.to_owned(),
            Value::new(Some(&origin.to_owned()), value.into()),
        );
    }

    /// The value under a key.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.values.get_mut(key)
    }

    /// The keys of this layer, with lists marked as such.
    pub(super) fn keys(&self) -> KnownKeys {
        let is_list = |value: &&Value| matches!(value.kind, ValueKind::Array(_));
        KnownKeys {
            all: self.values.keys().cloned().collect(),
            lists: self
                .values
                .iter()
                .filter(|(_, value)| is_list(value))
                .map(|(key, _)| key.clone())
                .collect(),
        }
    }

    /// Fails on a key that the defaults do not have.
    pub(super) fn check_keys(&self, known: &KnownKeys) -> Result<(), ConfigError> {
        let unknown = self
            .values
            .iter()
            .find(|(key, _)| !known.all.contains(*key));
        unknown.map_or(Ok(()), |(key, value)| {
            Err(ConfigError::UnknownKey {
                key: key.clone(),
                origin: value.origin().unwrap_or_default().to_owned(),
                known: known.near(key),
            })
        })
    }

    /// Puts the content of a file in the place of each `…_file` that names one.
    pub(super) fn read_secret_files(&mut self, origin: &str) -> Result<(), ConfigError> {
        for key in SECRET_KEYS {
            let Some(file) = self.values.remove(&format!("{key}_file")) else {
                continue;
            };
            if self.values.contains_key(key) {
                return Err(ConfigError::Twice {
                    key: key.to_owned(),
                    origin: origin.to_owned(),
                });
            }
            let named_by = file.origin().unwrap_or(origin).to_owned();
            let path = file.into_string().unwrap_or_default();
            let content = read_file(path.as_ref()).map_err(|source| ConfigError::SecretFile {
                key: key.to_owned(),
                origin: named_by.clone(),
                source,
            })?;
            if content.trim().is_empty() {
                return Err(ConfigError::EmptySecretFile {
                    key: key.to_owned(),
                    path,
                    origin: named_by,
                });
            }
            let origin = format!("{path}, named by {named_by}");
            if key == "webhook.secrets" {
                self.set(
                    key,
                    content.lines().map(Value::from).collect::<Vec<_>>(),
                    &origin,
                );
            } else {
                self.set(key, content.trim_end_matches(['\r', '\n']), &origin);
            }
        }
        Ok(())
    }

    fn flatten(&mut self, prefix: &str, table: toml::Table, file: &str) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                toml::Value::Table(table) => self.flatten(&key, table, file),
                leaf => self.set(&key, kind(leaf, file), file),
            }
        }
    }
}

fn kind(value: toml::Value, file: &str) -> ValueKind {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(datetime) => datetime.to_string().into(),
        toml::Value::Array(values) => values
            .into_iter()
            .map(|value| Value::new(Some(&file.to_owned()), kind(value, file)))
            .collect::<Vec<_>>()
            .into(),
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| (key, Value::new(Some(&file.to_owned()), kind(value, file))))
            .collect::<Map<_, _>>()
            .into(),
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, Foreign> {
        Ok(self.values.clone().into_iter().collect())
    }
}

/// The keys there are: those of the defaults.
pub(super) struct KnownKeys {
    all: BTreeSet<String>,
    lists: BTreeSet<String>,
}

impl KnownKeys {
    /// Whether the key's value is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.lists.contains(key)
    }

    /// What to write instead of an unknown key: the keys of its section, or the sections.
    fn near(&self, unknown: &str) -> String {
        let section = unknown.split('.').next().unwrap_or_default();
        let names: Vec<&str> = self
            .all
            .iter()
            .filter_map(|key| key.strip_prefix(section)?.strip_prefix('.'))
            .collect();
        if names.is_empty() {
            let sections: BTreeSet<&str> = self
                .all
                .iter()
                .filter_map(|key| key.split('.').next())
                .collect();
            format!(
                "the sections are {}",
                sections.into_iter().collect::<Vec<_>>().join(", ")
            )
        } else {
            format!("[{section}] has {}", names.join(", "))
        }
    }
}
