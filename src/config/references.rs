//! References to values: `…_file` keys, which name the file of a secret, and `${NAME}` in lists of tables.

use std::collections::BTreeMap;
use std::path::Path;

use ::config::{Map, Value, ValueKind};

use super::environment::Environment;
use super::error::ConfigError;
use super::layer::{Layer, trimmed};
use crate::config_types::{read_file, secret_of_file, trim_pasted};

/// Replaces the references in a layer by their values.
///
/// `${NAME}` is replaced only in lists of tables, because no environment variable can set a single key there. Strings under the
/// `verbatim` keys are left as they are.
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
        let resolver = TableResolver {
            environment,
            verbatim,
            origin,
        };
        for (number, item) in items.iter_mut().enumerate() {
            if let ValueKind::Table(table) = &mut item.kind {
                resolver.resolve(&format!("{key}[{number}]."), table)?;
            }
        }
    }
    Ok(())
}

/// The last words of keys with a list of secrets. A file for such a key has one secret in each line.
const LISTS_OF_SECRETS: [&str; 2] = ["secrets", "tokens"];

/// Replaces each key that names the file of a secret by the secret, or by a list of them.
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
        let path_origin = file.origin().map(str::to_owned);
        let path = file.into_string().unwrap_or_default();
        let content = read_secret(&path, key, path_origin.as_deref().unwrap_or(source))?;
        let kind = if LISTS_OF_SECRETS.iter().any(|list| name.ends_with(list)) {
            let lines = content.lines().map(|line| trimmed(name, line));
            lines.map(Value::from).collect::<Vec<_>>().into()
        } else {
            ValueKind::from(trimmed(name, &content))
        };
        let origin = path_origin.map(|origin| format!("{path}, named by {origin}"));
        table.insert(name.to_owned(), Value::new(origin.as_ref(), kind));
    }
    Ok(())
}

/// Reads the file of a secret. Fails on an empty file.
fn read_secret(path: &str, key: String, path_origin: &str) -> Result<String, ConfigError> {
    let origin = path_origin.to_owned();
    match read_file(Path::new(path)) {
        Ok(content) if trim_pasted(&content).is_empty() => Err(ConfigError::EmptySecretFile {
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

/// Replaces the references in the tables of a list.
struct TableResolver<'a> {
    environment: &'a Environment,
    verbatim: &'a [&'a str],
    /// The origin of the list.
    origin: String,
}

impl TableResolver<'_> {
    fn resolve(&self, prefix: &str, table: &mut Map<String, Value>) -> Result<(), ConfigError> {
        for (name, value) in table.iter_mut() {
            if !self.verbatim.contains(&name.as_str()) {
                self.resolve_value(&format!("{prefix}{name}"), value)?;
            }
        }
        // The keys of these tables are names of headers and fields, so `…_file` has no meaning there.
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
                *text = self.expand(text).map_err(|problem| ConfigError::Setting {
                    key: key.to_owned(),
                    origin: self.origin.clone(),
                    problem,
                })?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Replaces each `${NAME}` by the environment variable, and each `$${` by `${`. The error is the problem of the setting.
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut remaining = text;
        while let Some((before, after)) = remaining.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                remaining = after;
                continue;
            }
            let (name, after) = after
                .split_once('}')
                .filter(|(name, _)| is_variable_name(name))
                .ok_or("${ must be followed by the name of an environment variable and }. For a literal ${, write $${.")?;
            let value = self
                .environment
                .get(name)
                .ok_or_else(|| format!("the environment variable {name} is not set"))?;
            if value.is_empty() {
                return Err(format!(
                    "the environment variable {name} has only white space"
                ));
            }
            expanded.push_str(before);
            expanded.push_str(value);
            remaining = after;
        }
        expanded.push_str(remaining);
        Ok(expanded)
    }
}

fn is_variable_name(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_word) && !text.starts_with(|c: char| c.is_ascii_digit())
}
