//! The configuration: `config/default.toml` < the profile's file or `--config` < the environment.
//!
//! Each module owns its settings and their types. This module loads the values, and names the key and the source of a wrong
//! one. No other module reads environment variables.

mod environment;
mod error;
mod layer;
mod references;
mod shown;

use std::path::{Path, PathBuf};

use ::config::Config;
use serde::Deserialize;

use crate::config_types::{InvalidSetting, ListenAddress, read_file};
use crate::relay::Endpoints;
use crate::store::DatabaseUrl;
use crate::{ops, receiver, relay, retention, shutdown, store, telemetry, web};
use error::explain;
use layer::{Layer, RenamedKey};

pub use environment::Environment;
pub(crate) use error::ConfigError;
pub(crate) use shown::EffectiveSetting;

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
    /// Publishing events to other apps.
    pub relay: relay::Settings,
    /// How long rows are kept.
    pub retention: retention::Settings,
    /// Logging.
    pub log: telemetry::Settings,
    /// Stopping.
    pub shutdown: shutdown::Settings,
}

impl Settings {
    /// Checks what no single setting can say of itself.
    fn check(&self) -> Result<(), InvalidSetting> {
        self.webhook.check()?;
        let is_sqlite = matches!(self.database.url, DatabaseUrl::Sqlite(_));
        if is_sqlite && self.relay.notify_channel().is_some() {
            return Err(InvalidSetting {
                key: "relay.notify_channel",
                rule: "is for Postgres, and database.url names SQLite, to which nobody can listen: use an endpoint, or read the tables".to_owned(),
            });
        }
        let (kept, parked) = (self.retention.rejections_days, self.webhook.parked_ttl_days);
        if kept.days().is_zero() || kept.days() >= parked.days() {
            return Ok(());
        }
        Err(InvalidSetting {
            key: "retention.rejections_days",
            rule: "must be 0, or at least webhook.parked_ttl_days: what is parked would be deleted before its time".to_owned(),
        })
    }
}

/// A set of defaults, chosen by `APP_PROFILE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For development.
    Development,
    /// For production: `serve` refuses to start without a secret.
    Production,
}

/// The settings, what was built from them, and the source of each value.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The relay's endpoints, built from the settings.
    pub endpoints: Endpoints,
    /// The profile they were loaded under.
    pub profile: Profile,
    shown: Vec<EffectiveSetting>,
    warnings: Vec<RenamedKey>,
}

/// Loads the settings. `file` replaces the profile's file.
pub fn load(environment: &Environment, file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let profile = profile(environment)?;
    let defaults = include_str!("../../config/default.toml");
    let defaults = Layer::of_toml(defaults, "config/default.toml")?;
    let mut layers = vec![file_layer(profile, file)?, environment.layer(&defaults)?];
    let mut warnings = Vec::new();
    for layer in &mut layers {
        warnings.extend(layer.rename_keys(&receiver::Settings::RENAMED_KEYS)?);
        layer.check_keys(&defaults)?;
        references::resolve(layer, environment, &relay::Settings::VERBATIM_KEYS)?;
    }
    layers.insert(0, defaults);
    if let Some(port) = environment.port()? {
        // A wrong address is refused below, like any other wrong value.
        let listen = merged(&layers).get::<ListenAddress>("server.listen");
        if let Ok(listen) = listen {
            let listen = listen.with_port(port).to_string();
            let mut layer = Layer::new("the environment");
            layer.set("server.listen", listen, "the environment variable PORT");
            layers.push(layer);
        }
    }

    let merged = merged(&layers);
    let shown = shown::all(&merged.cache);
    let settings: Settings =
        serde_path_to_error::deserialize(merged).map_err(|error| explain(&error, &shown))?;
    let endpoints = build(&settings)
        .map_err(|invalid| ConfigError::wrong(invalid.key.to_owned(), invalid.rule, &shown))?;
    Ok(Loaded {
        settings,
        endpoints,
        profile,
        shown,
        warnings,
    })
}

/// Checks the settings, and builds the endpoints from them.
fn build(settings: &Settings) -> Result<Endpoints, InvalidSetting> {
    settings.check()?;
    Endpoints::new(&settings.relay)
}

/// Merges the layers, of which a later one wins.
fn merged(layers: &[Layer]) -> Config {
    let builder = layers.iter().fold(Config::builder(), |builder, layer| {
        builder.add_source(layer.clone())
    });
    builder.build().expect("a layer always has its values")
}

impl Loaded {
    /// Fails if the profile requires a secret and there is none.
    pub fn check_profile(&self) -> Result<(), ConfigError> {
        let is_open = self.settings.webhook.secrets().next().is_none();
        match self.profile {
            Profile::Production if is_open => Err(ConfigError::SecretRequired),
            Profile::Production | Profile::Development => Ok(()),
        }
    }

    /// Returns the settings that are set under an old name.
    #[must_use]
    pub fn warnings(&self) -> &[RenamedKey] {
        &self.warnings
    }

    /// Returns every key with its value and its source, secrets redacted.
    #[must_use]
    pub fn shown(&self) -> &[EffectiveSetting] {
        &self.shown
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

/// Reads the given file, or the profile's from the working directory. If there is none, the built-in one is used.
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
