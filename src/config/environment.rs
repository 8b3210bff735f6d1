//! Environment variables as a source of settings: `APP__SECTION__KEY` for every key, and short names such as `DATABASE_URL`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::config::{Value, ValueKind};

use super::error::ConfigError;
use super::layer::Layer;
use crate::config_types::{is_secret, trim_pasted};

const PREFIX: &str = "APP__";

/// The short names and the keys that they set. The `APP__…` variable of the same key wins. `PORT` is not here, because it sets
/// only a part of a value.
const SHORT_NAMES: [(&str, &str); 10] = [
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
    ("CLOUDFLARE_ACCOUNT_ID", "cloudflare.account_id"),
    ("CLOUDFLARE_API_TOKEN", "cloudflare.api_token"),
    ("CLOUDFLARE_API_TOKEN_FILE", "cloudflare.api_token_file"),
    ("RUST_LOG", "log.filter"),
];

/// The variables that name a proxy for other programs.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The running program. It stays this program after an upgrade has replaced its file.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// A copy of the environment variables, and the path of the program. Tests make their own.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    not_unicode: Vec<String>,
    executable: PathBuf,
}

impl Environment {
    /// Copies the environment variables of this process.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads environment variables"
    )]
    #[must_use]
    pub fn of_process() -> Self {
        let mut environment = Self::default().with_executable(running_program());
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

    /// Replaces the path of this service's own program, which runs jq programs. A test's own program is another one.
    #[must_use]
    pub fn with_executable(mut self, executable: impl Into<PathBuf>) -> Self {
        self.executable = executable.into();
        self
    }

    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Returns a variable's value, without white space and byte order marks around it. An empty variable counts as not set, as in
    /// Compose files. The value is empty only if the variable has nothing but white space.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
            .map(trim_pasted)
    }

    /// Fails if a variable of libpq names a file and is empty. sqlx would open a file without a name.
    pub(super) fn check_libpq_files(&self) -> Result<(), ConfigError> {
        let is_empty = |name: &&str| self.variables.get(*name).is_some_and(String::is_empty);
        let empty = ["PGSSLCERT", "PGSSLKEY"].into_iter().find(is_empty);
        empty.map_or(Ok(()), |name| {
            Err(ConfigError::Setting {
                key: "database.url".to_owned(),
                origin: name.to_owned(),
                problem: "the path of a file is empty. Remove the variable.".to_owned(),
            })
        })
    }

    /// Returns the file that alone replaces the system's certificate authorities.
    pub(super) fn only_authorities(&self) -> Option<&str> {
        let file = self.get("SSL_CERT_FILE");
        file.filter(|_| !self.variables.contains_key("SSL_CERT_DIR"))
    }

    /// Returns the variable that names a proxy for other programs, if there is one.
    pub(super) fn proxy_variable(&self) -> Option<&'static str> {
        let mut names = PROXY_VARIABLES.into_iter();
        names.find(|name| self.get(name).is_some())
    }

    /// Returns the port in `PORT`.
    pub(super) fn port(&self) -> Result<Option<u16>, ConfigError> {
        let Some(port) = self.get("PORT") else {
            return Ok(None);
        };
        if port.is_empty() {
            return Err(ConfigError::blank("server.listen", "PORT"));
        }
        port.parse().map(Some).map_err(|_| ConfigError::Setting {
            key: "server.listen".to_owned(),
            origin: "PORT".to_owned(),
            problem: "the port must be a number from 0 to 65535".to_owned(),
        })
    }

    /// Returns the values that the environment sets. A value is read as a list if its default is a list.
    pub(super) fn layer(&self, defaults: &Layer) -> Result<Layer, ConfigError> {
        self.check_unicode()?;
        let mut layer = Layer::new("the environment");
        for (name, key) in SHORT_NAMES {
            let Some(value) = self.get(name) else {
                continue;
            };
            if value.is_empty() {
                return Err(ConfigError::blank(key, name));
            }
            let kind = if defaults.is_list(key) {
                vec![value].into()
            } else {
                ValueKind::from(value)
            };
            layer.set(key, kind, name);
        }
        for name in self.variables.keys() {
            let (Some(path), Some(value)) = (name.strip_prefix(PREFIX), self.get(name)) else {
                continue;
            };
            let key = path.to_lowercase().replace("__", ".");
            if value.is_empty() {
                return Err(ConfigError::blank(&key, name));
            }
            let kind = if defaults.is_list(&key) {
                parse_list(&key, name, value)?
            } else {
                ValueKind::from(value)
            };
            layer.set(&key, kind, name);
        }
        Ok(layer)
    }

    /// Fails if a variable that sets a setting is not UTF-8.
    fn check_unicode(&self) -> Result<(), ConfigError> {
        let is_setting = |name: &&String| {
            name.starts_with(PREFIX)
                || ["PORT", "APP_PROFILE"].contains(&name.as_str())
                || SHORT_NAMES.iter().any(|(short, _)| short == name)
        };
        self.not_unicode
            .iter()
            .find(is_setting)
            .map_or(Ok(()), |name| {
                Err(ConfigError::NotUnicode { name: name.clone() })
            })
    }
}

/// Returns the path of the running program. An empty path if the system does not tell it: then no process can be started.
fn running_program() -> PathBuf {
    let path = PathBuf::from(RUNNING_PROGRAM);
    if path.exists() {
        return path;
    }
    std::env::current_exe().unwrap_or_default()
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            ..Self::default()
        }
    }
}

impl std::fmt::Debug for Environment {
    /// Writes only the names, because values can be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Parses a list: a JSON array of strings or of objects, or strings separated by commas. A secret is not split, because it
/// can contain a comma.
fn parse_list(key: &str, name: &str, value: &str) -> Result<ValueKind, ConfigError> {
    if value.starts_with('[') {
        let is_item =
            |item: &Value| matches!(item.kind, ValueKind::String(_) | ValueKind::Table(_));
        let items: Option<Vec<Value>> = serde_json::from_str(value).ok();
        let items = items.filter(|items| items.iter().all(is_item));
        return items.map(Into::into).ok_or_else(|| ConfigError::Setting {
            key: key.to_owned(),
            origin: name.to_owned(),
            problem: "must be a list separated by commas, or a JSON array of strings. For a list of tables, use a JSON array of objects."
                .to_owned(),
        });
    }
    if is_secret(key) {
        return Ok(vec![value].into());
    }
    let texts = value.split(',').map(str::trim);
    let texts = texts.filter(|text| !text.is_empty());
    Ok(texts.collect::<Vec<_>>().into())
}
