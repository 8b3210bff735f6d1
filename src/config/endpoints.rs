//! The endpoints' tables: `${NAME}` in them stands for an environment variable, and `secret_file` for the file that a secret is in.

use ::config::{Map, Value, ValueKind};

use super::environment::Environment;
use super::error::ConfigError;
use super::layer::Layer;
use crate::setting::read_file;

/// The list of tables.
pub(super) const ENDPOINTS: &str = "relay.endpoints";

/// The keys whose values can come from a file.
const FROM_FILE: [&str; 3] = ["secret", "secrets", "client_secret"];

/// The keys in which a dollar sign is a program's own.
const PROGRAMS: [&str; 2] = ["when", "transform"];

/// Puts in what the tables refer to.
pub(super) fn resolve(layer: &mut Layer, environment: &Environment) -> Result<(), ConfigError> {
    let Some(value) = layer.get_mut(ENDPOINTS) else {
        return Ok(());
    };
    let origin = value.origin().unwrap_or_default().to_owned();
    let resolver = Resolver {
        environment,
        origin,
    };
    resolver.value("", value)
}

struct Resolver<'a> {
    environment: &'a Environment,
    origin: String,
}

impl Resolver<'_> {
    fn value(&self, key: &str, value: &mut Value) -> Result<(), ConfigError> {
        match &mut value.kind {
            ValueKind::Table(table) => self.table(table),
            ValueKind::Array(values) => values
                .iter_mut()
                .try_for_each(|value| self.value(key, value)),
            ValueKind::String(text) if !PROGRAMS.contains(&key) => {
                *text = self.expanded(text)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn table(&self, table: &mut Map<String, Value>) -> Result<(), ConfigError> {
        for (key, value) in table.iter_mut() {
            self.value(key, value)?;
        }
        for key in FROM_FILE {
            let Some(path) = table.remove(&format!("{key}_file")) else {
                continue;
            };
            if table.contains_key(key) {
                return Err(ConfigError::Twice {
                    key: format!("{ENDPOINTS}: {key}"),
                    origin: self.origin.clone(),
                });
            }
            let secret = self.read(key, &path.into_string().unwrap_or_default())?;
            let kind = if key == "secrets" {
                secret.lines().map(Value::from).collect::<Vec<_>>().into()
            } else {
                ValueKind::from(secret.trim_end_matches(['\r', '\n']))
            };
            let value = Value::new(Some(&self.origin), kind);
            table.insert(key.to_owned(), value);
        }
        Ok(())
    }

    fn read(&self, key: &str, path: &str) -> Result<String, ConfigError> {
        let key = format!("{ENDPOINTS}: {key}");
        let content = read_file(path.as_ref()).map_err(|source| ConfigError::SecretFile {
            key: key.clone(),
            origin: self.origin.clone(),
            source,
        })?;
        if content.trim().is_empty() {
            return Err(ConfigError::EmptySecretFile {
                key,
                path: path.to_owned(),
                origin: self.origin.clone(),
            });
        }
        Ok(content)
    }

    /// `$${` is a `${` that stands for itself.
    fn expanded(&self, text: &str) -> Result<String, ConfigError> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let (name, after) = after
                .split_once('}')
                .filter(|(name, _)| is_name(name))
                .ok_or_else(|| self.problem("has a ${ that no NAME} follows; $${ stands for it"))?;
            let value = self.environment.get(name).ok_or_else(|| {
                self.problem(&format!(
                    "names the environment variable {name}, which is not set"
                ))
            })?;
            expanded.push_str(value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn problem(&self, problem: &str) -> ConfigError {
        ConfigError::Setting {
            key: ENDPOINTS.to_owned(),
            origin: self.origin.clone(),
            problem: problem.to_owned(),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_word) && !text.starts_with(|c: char| c.is_ascii_digit())
}
