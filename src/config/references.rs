//! References to values: keys that name the file of a secret, and `${NAME}` in lists of tables.

use std::collections::BTreeMap;
use std::path::Path;

use ::config::{Map, Value, ValueKind};

use super::environment::Environment;
use super::error::ConfigError;
use super::layer::Layer;
use crate::config_types::{read_file, secret_of_file};

/// Replaces the references of a layer by their values.
///
/// No environment variable sets a single key in a list of tables, so that its texts can have `${NAME}`. The texts under the
/// `verbatim` keys stay as they are.
pub(super) fn resolve(
    layer: &mut Layer,
    environment: &Environment,
    verbatim: &[&str],
) -> Result<(), ConfigError> {
    read_secret_files(&mut layer.values, "", &layer.source)?;
    for (key, value) in &mut layer.values {
        let origin = value.origin().unwrap_or(&layer.source).to_owned();
        let ValueKind::Array(items) = &mut value.kind else {
            continue;
        };
        let tables = Tables {
            environment,
            verbatim,
            origin,
        };
        for (number, item) in items.iter_mut().enumerate() {
            if let ValueKind::Table(table) = &mut item.kind {
                tables.resolve(&format!("{key}[{number}]."), table)?;
            }
        }
    }
    Ok(())
}

/// Replaces each key that names the file of a secret by the secret. A file of `secrets` has one in each line.
fn read_secret_files(
    table: &mut Map<String, Value>,
    prefix: &str,
    source: &str,
) -> Result<(), ConfigError> {
    let is_file = |name: &String| secret_of_file(name).is_some();
    let files: BTreeMap<String, Value> = table.extract_if(|name, _| is_file(name)).collect();
    for (file_key, file) in files {
        let name = secret_of_file(&file_key).unwrap_or_default();
        let key = format!("{prefix}{name}");
        if table.contains_key(name) {
            let origin = source.to_owned();
            return Err(ConfigError::ValueAndFile { key, origin });
        }
        let named_by = file.origin().map(str::to_owned);
        let path = file.into_string().unwrap_or_default();
        let content = secret_in(&path, key, named_by.as_deref().unwrap_or(source))?;
        let kind = if name.ends_with("secrets") {
            content.lines().map(Value::from).collect::<Vec<_>>().into()
        } else {
            ValueKind::from(content.trim_end_matches(['\r', '\n']))
        };
        let origin = named_by.map(|by| format!("{path}, named by {by}"));
        table.insert(name.to_owned(), Value::new(origin.as_ref(), kind));
    }
    Ok(())
}

fn secret_in(path: &str, key: String, named_by: &str) -> Result<String, ConfigError> {
    let origin = named_by.to_owned();
    match read_file(Path::new(path)) {
        Ok(content) if content.trim().is_empty() => Err(ConfigError::EmptySecretFile {
            key,
            path: path.to_owned(),
            origin,
        }),
        Ok(content) => Ok(content),
        Err(source) => Err(ConfigError::SecretFile {
            key,
            origin,
            source,
        }),
    }
}

/// The references in a list of tables.
struct Tables<'a> {
    environment: &'a Environment,
    verbatim: &'a [&'a str],
    /// Where the list comes from.
    origin: String,
}

impl Tables<'_> {
    fn resolve(&self, prefix: &str, table: &mut Map<String, Value>) -> Result<(), ConfigError> {
        for (name, value) in table.iter_mut() {
            if !self.verbatim.contains(&name.as_str()) {
                self.resolve_value(&format!("{prefix}{name}"), value)?;
            }
        }
        // The names in these tables are an endpoint's own.
        if prefix.ends_with("headers.") || prefix.contains("_fields.") {
            return Ok(());
        }
        read_secret_files(table, prefix, &self.origin)
    }

    fn resolve_value(&self, key: &str, value: &mut Value) -> Result<(), ConfigError> {
        match &mut value.kind {
            ValueKind::Table(table) => self.resolve(&format!("{key}."), table),
            ValueKind::Array(values) => values
                .iter_mut()
                .try_for_each(|value| self.resolve_value(key, value)),
            ValueKind::String(text) => {
                *text = self
                    .expanded(text)
                    .map_err(|problem| ConfigError::Setting {
                        key: key.to_owned(),
                        origin: self.origin.clone(),
                        problem,
                    })?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Replaces each `${NAME}`. `$${` is a `${` that stands for itself.
    fn expanded(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            let (name, after) = after
                .split_once('}')
                .filter(|(name, _)| is_name(name))
                .ok_or("has a ${ that no NAME} follows; $${ stands for it")?;
            let value = self.environment.get(name).ok_or_else(|| {
                format!("names the environment variable {name}, which is not set")
            })?;
            expanded.push_str(before);
            expanded.push_str(value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

fn is_name(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_word) && !text.starts_with(|c: char| c.is_ascii_digit())
}
