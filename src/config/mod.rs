//! The configuration: `config/default.toml` < the profile's file or `--config` < the environment.
//!
//! The modules own their settings; this one sums them up, finds their values, and names the key and the source of one that is
//! wrong. It is the only place that reads environment variables.

mod endpoints;
mod environment;
mod error;
mod layer;
mod shown;

use std::path::{Path, PathBuf};

use ::config::{Config, Source};
use serde::Deserialize;

use crate::relay::Endpoints;
use crate::setting::{InvalidSetting, ListenAddress, read_file};
use crate::store::DatabaseUrl;
use crate::{ops, receiver, relay, retention, shutdown, store, telemetry, web};
use error::explain;
use layer::Layer;

pub use environment::Environment;
pub use error::ConfigError;
pub use shown::Shown;

/// Every setting of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The listener for webhooks.
    pub server: web::Settings,
    /// The listener for the platform.
    pub ops: ops::Settings,
    /// The database.
    pub database: store::Settings,
    /// Receiving webhooks.
    pub webhook: receiver::Settings,
    /// Telling other apps.
    pub relay: relay::Settings,
    /// How long what is kept.
    pub retention: retention::Settings,
    /// Logging.
    pub log: telemetry::Settings,
    /// Stopping.
    pub shutdown: shutdown::Settings,
}

impl Settings {
    /// Checks what no section can say of itself.
    fn check(&self) -> Result<(), InvalidSetting> {
        let is_sqlite = matches!(self.database.url, DatabaseUrl::Sqlite(_));
        if is_sqlite && self.relay.notify_channel().is_some() {
            return Err(InvalidSetting {
                key: "relay.notify_channel",
                rule: "is for Postgres, and database.url names SQLite, to which nobody can listen: use an endpoint, or read the tables".to_owned(),
            });
        }
        let (kept, parked) = (self.retention.rejections_days, self.webhook.park_days);
        if kept.days().is_zero() || kept.days() >= parked.days() {
            return Ok(());
        }
        Err(InvalidSetting {
            key: "retention.rejections_days",
            rule: "must be 0, or at least webhook.park_days: what is parked would be deleted before its time".to_owned(),
        })
    }
}

/// Which defaults apply, and how much is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For trying things out.
    Development,
    /// For real use: refuses to start without a secret.
    Production,
}

/// The settings, what was built from them, and where each came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The relay's endpoints, built from the settings.
    pub endpoints: Endpoints,
    /// The profile they were loaded under.
    pub profile: Profile,
    merged: Config,
}

/// Finds the settings. `file` takes the place of the profile's file.
pub fn load(environment: &Environment, file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let profile = profile(environment)?;
    let defaults = Layer::of_toml(
        include_str!("../../config/default.toml"),
        "config/default.toml",
    )?;
    let known = defaults.keys();

    let mut builder = Config::builder().add_source(defaults);
    for mut layer in [file_layer(profile, file)?, environment.layer(&known)?] {
        layer.check_keys(&known)?;
        endpoints::resolve(&mut layer, environment)?;
        builder = builder.add_source(layer);
    }
    let mut merged = builder
        .build_cloned()
        .map_err(|error| explain(&error, &Config::default()))?;
    if let Some(port) = environment.port()? {
        let listen: ListenAddress = merged
            .get("server.listen")
            .map_err(|error| explain(&error, &merged))?;
        let listen = listen.with_port(port).to_string();
        let layer = Layer::single("server.listen", listen, "the environment variable PORT");
        merged = builder
            .add_source(layer)
            .build()
            .map_err(|error| explain(&error, &merged))?;
    }

    let settings: Settings = merged
        .clone()
        .try_deserialize()
        .map_err(|error| explain(&error, &merged))?;
    let endpoints = build(&settings).map_err(|problem| ConfigError::Setting {
        key: problem.key.to_owned(),
        origin: origin(&merged, problem.key),
        problem: problem.rule,
    })?;
    Ok(Loaded {
        settings,
        endpoints,
        profile,
        merged,
    })
}

/// Checks the settings and builds the endpoints from them.
fn build(settings: &Settings) -> Result<Endpoints, InvalidSetting> {
    settings.webhook.check()?;
    let endpoints = Endpoints::new(&settings.relay)?;
    settings.check()?;
    Ok(endpoints)
}

impl Loaded {
    /// Refuses what the profile forbids to serve with.
    pub fn check_profile(&self) -> Result<(), ConfigError> {
        let is_open = self.settings.webhook.secrets().next().is_none();
        match self.profile {
            Profile::Production if is_open => Err(ConfigError::SecretRequired),
            Profile::Production | Profile::Development => Ok(()),
        }
    }

    /// Every key with its value and its source, secrets redacted.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let merged = self.merged.collect().unwrap_or_default();
        shown::all(&merged)
    }
}

fn profile(environment: &Environment) -> Result<Profile, ConfigError> {
    match environment.get("APP_PROFILE") {
        None | Some("development") => Ok(Profile::Development),
        Some("production") => Ok(Profile::Production),
        Some(_) => Err(ConfigError::Setting {
            key: "APP_PROFILE".to_owned(),
            origin: "the environment".to_owned(),
            problem: "must be development or production".to_owned(),
        }),
    }
}

/// The file that was asked for; else the profile's, from the working directory, or as it was when this was built.
fn file_layer(profile: Profile, file: Option<&Path>) -> Result<Layer, ConfigError> {
    let read = |path: &Path| {
        let text = read_file(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        Layer::of_toml(&text, &path.display().to_string())
    };
    if let Some(path) = file {
        return read(path);
    }
    let (name, built_in) = match profile {
        Profile::Development => ("config/development.toml", ""),
        Profile::Production => (
            "config/production.toml",
            include_str!("../../config/production.toml"),
        ),
    };
    let path = PathBuf::from(name);
    if path.is_file() {
        read(&path)
    } else {
        Layer::of_toml(built_in, &format!("{name} (built in)"))
    }
}

/// Where the value of a key came from.
fn origin(merged: &Config, key: &str) -> String {
    let values = shown::all(&merged.collect().unwrap_or_default());
    // Of a list of tables, its first value.
    let within = format!("{key}[");
    let value = values
        .into_iter()
        .find(|value| value.key == key || value.key.starts_with(&within));
    value.map_or_else(|| "the configuration".to_owned(), |value| value.origin)
}
