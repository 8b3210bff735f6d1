//! The values of one source, under flat keys. Each value knows its origin.

use std::collections::BTreeSet;
use std::fmt;

use ::config::{ConfigError as CrateError, Map, Source, Value, ValueKind};

use super::error::ConfigError;
use crate::config_types::{secret_of_file, trim_pasted, trim_quotes};

/// A setting that has a value under its old name.
#[derive(Debug, Clone)]
pub struct RenamedKey {
    /// The old key.
    pub old: &'static str,
    /// The new key.
    pub new: &'static str,
    /// The source of the value.
    pub origin: String,
}

impl fmt::Display for RenamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { old, new, origin } = self;
        write!(f, "{old}: old name (from {origin}). Use {new}.")
    }
}

/// The values of one source, under their dotted keys. A list is a value. A table is not, except in a list.
#[derive(Clone)]
pub(super) struct Layer {
    /// The name of the file, or `the environment`.
    pub(super) source: String,
    pub(super) values: Map<String, Value>,
}

impl Layer {
    pub(super) fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            values: Map::new(),
        }
    }

    /// Parses the text of a TOML file.
    pub(super) fn of_toml(text: &str, file: &str) -> Result<Self, ConfigError> {
        let document = toml::from_str(text).map_err(|error| {
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
        let mut layer = Self::new(file);
        layer.flatten("", document, file);
        Ok(layer)
    }

    pub(super) fn set(&mut self, key: &str, kind: impl Into<ValueKind>, origin: &str) {
        let value = Value::new(Some(&origin.to_owned()), kind);
        self.values.insert(key.to_owned(), value);
    }

    pub(super) fn is_list(&self, key: &str) -> bool {
        let value = self.values.get(key);
        value.is_some_and(|value| matches!(value.kind, ValueKind::Array(_)))
    }

    /// Removes white space and byte order marks around each text, and quotes around each URL. Fails if nothing else is there.
    pub(super) fn trim_values(&mut self) -> Result<(), ConfigError> {
        for (key, value) in &mut self.values {
            let origin = value.origin().unwrap_or(&self.source).to_owned();
            trim_value(key, value, &origin)?;
        }
        Ok(())
    }

    /// Fails if one of these lists has no item.
    pub(super) fn check_not_empty(&self, lists: &[&str]) -> Result<(), ConfigError> {
        let is_blank =
            |value: &Value| matches!(&value.kind, ValueKind::String(text) if text.is_empty());
        for key in lists {
            let Some(value) = self.values.get(*key) else {
                continue;
            };
            let is_empty = match &value.kind {
                ValueKind::Array(items) => items.iter().all(is_blank),
                _ => is_blank(value),
            };
            if is_empty {
                return Err(ConfigError::EmptyList {
                    key: (*key).to_owned(),
                    origin: value.origin().unwrap_or(&self.source).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Moves the values of old keys to their new keys. Returns the keys that were moved.
    pub(super) fn rename_keys(
        &mut self,
        renamed: &[(&'static str, &'static str)],
    ) -> Result<Vec<RenamedKey>, ConfigError> {
        let mut warnings = Vec::new();
        for &(old, new) in renamed {
            let Some(value) = self.values.remove(old) else {
                continue;
            };
            let origin = value.origin().unwrap_or(&self.source).to_owned();
            if self.values.contains_key(new) {
                return Err(ConfigError::OldAndNewKey {
                    old: old.to_owned(),
                    new: new.to_owned(),
                    origin,
                });
            }
            warnings.push(RenamedKey { old, new, origin });
            self.values.insert(new.to_owned(), value);
        }
        Ok(warnings)
    }

    /// Fails on a key that the defaults do not have. Each secret key also has a `…_file` key.
    pub(super) fn check_keys(&self, defaults: &Self) -> Result<(), ConfigError> {
        let is_known = |key: &str| {
            defaults
                .values
                .contains_key(secret_of_file(key).unwrap_or(key))
        };
        let unknown = self.values.iter().filter(|(key, _)| !is_known(key));
        let Some((key, value)) = unknown.min_by_key(|(key, _)| *key) else {
            return Ok(());
        };
        Err(ConfigError::UnknownKey {
            key: key.clone(),
            origin: value.origin().unwrap_or(&self.source).to_owned(),
            known: defaults.known_names(key),
        })
    }

    /// Returns a sentence that lists the keys of an unknown key's section. If the section is unknown too, it lists the sections.
    fn known_names(&self, unknown: &str) -> String {
        let keys = || self.values.keys().filter_map(|key| key.split_once('.'));
        let section = unknown.split('.').next().unwrap_or_default();
        let in_section = keys().filter(|(of, _)| *of == section);
        let names: BTreeSet<&str> = in_section.map(|(_, name)| name).collect();
        if names.is_empty() {
            let sections: BTreeSet<&str> = keys().map(|(section, _)| section).collect();
            format!("The sections are {}.", join(sections))
        } else {
            format!("The keys of [{section}] are {}.", join(names))
        }
    }

    /// Adds the values of a table and of the tables in it, with `prefix` before their keys.
    fn flatten(&mut self, prefix: &str, table: Map<String, Value>, file: &str) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value.kind {
                ValueKind::Table(mut table) => match table.remove(TOML_DATE) {
                    Some(date) => self.set(&key, date.kind, file),
                    None => self.flatten(&format!("{key}."), table, file),
                },
                kind => self.set(&key, kind, file),
            }
        }
    }
}

/// The only key of the table into which the toml crate turns a date. No setting is a date, but a secret can look like one.
const TOML_DATE: &str = "$__toml_private_datetime";

impl fmt::Debug for Layer {
    /// Writes only the source, because values can be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layer({})", self.source)
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, CrateError> {
        Ok(self.values.clone())
    }
}

fn trim_value(key: &str, value: &mut Value, origin: &str) -> Result<(), ConfigError> {
    match &mut value.kind {
        ValueKind::String(text) if !text.is_empty() => {
            let trimmed = trimmed(key, text);
            if trimmed.is_empty() {
                return Err(ConfigError::blank(key, origin));
            }
            *text = trimmed.to_owned();
        }
        ValueKind::Array(items) => {
            for item in items {
                trim_value(key, item, origin)?;
            }
        }
        ValueKind::Table(table) => {
            for (name, value) in table {
                trim_value(name, value, origin)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Returns the value of a key without the characters that pasting added. Quotes are never a part of a URL.
pub(super) fn trimmed<'a>(key: &str, text: &'a str) -> &'a str {
    let text = trim_pasted(text);
    if key.rsplit(['.', '_']).next() == Some("url") {
        trim_quotes(text)
    } else {
        text
    }
}

fn join(names: BTreeSet<&str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
