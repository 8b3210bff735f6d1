//! The configuration. It has three sources, and later ones win: `config/default.toml`, the profile's file or `--config`, and the
//! environment.
//!
//! Each module owns its settings and their types. This module loads the values. If a value is invalid, it names the key and the
//! source. No other module reads environment variables.

mod effective_settings;
mod environment;
mod error;
mod layer;
mod listeners;
mod profile;
mod references;
mod warning;

use std::path::{Path, PathBuf};

use ::config::Config;
use serde::Deserialize;

use crate::config_types::{InvalidSetting, ListenAddress, read_file};
use crate::outbound::Authorities;
use crate::receiver::SecretAge;
use crate::relay::Endpoints;
use crate::store::{DatabaseUrl, InvalidVariables};
use crate::{
    api, cloudflare, ops, outbound, receiver, reconcile, relay, retention, shutdown, store,
    telemetry, web,
};
use layer::Layer;

pub(crate) use effective_settings::EffectiveSetting;
pub use environment::Environment;
pub(crate) use error::ConfigError;
pub use profile::Profile;
pub use warning::ConfigWarning;

/// All settings of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The settings of the listener for webhooks.
    pub server: web::Settings,
    /// The settings of the listener for probes and metrics.
    pub ops: ops::Settings,
    /// The settings of the database.
    pub database: store::Settings,
    /// The settings of receiving webhooks.
    pub webhook: receiver::Settings,
    /// The settings of publishing events to subscribers.
    pub relay: relay::Settings,
    /// The account and the token at Cloudflare.
    pub cloudflare: cloudflare::Settings,
    /// The settings of the HTTP API.
    pub api: api::Settings,
    /// The settings of looking up images at Cloudflare.
    pub reconcile: reconcile::Settings,
    /// The certificate authorities of other servers.
    pub tls: outbound::Settings,
    /// The retention periods of the tables.
    pub retention: retention::Settings,
    /// The settings of the log.
    pub log: telemetry::Settings,
    /// The settings of the shutdown.
    pub shutdown: shutdown::Settings,
}

impl Settings {
    /// Returns whether one port serves webhooks, probes and metrics.
    #[must_use]
    pub fn has_one_port(&self) -> bool {
        listeners::is_one_port(self.server.listen.get(), self.ops.listen.get())
    }

    /// Returns whether the running service looks up images at Cloudflare.
    #[must_use]
    pub fn can_look_up(&self) -> bool {
        self.cloudflare.is_complete() && self.reconcile.after().is_some()
    }

    /// Checks the rules that involve several settings.
    fn check(&self) -> Result<(), InvalidSetting> {
        self.server.check()?;
        self.database.check()?;
        self.webhook.check()?;
        self.cloudflare.check()?;
        listeners::check(&self.server, &self.ops, &self.webhook.path)?;
        self.api.check_path("webhook.path", &self.webhook.path)?;
        if let Some(health) = self.server.health_path.get() {
            self.api.check_path("server.health_path", health)?;
        }
        let is_sqlite = matches!(self.database.url, DatabaseUrl::Sqlite(_));
        if is_sqlite && self.relay.notify_channel().is_some() {
            return Err(InvalidSetting {
                key: "relay.notify_channel",
                rule: "needs Postgres, and database.url is SQLite. Use an endpoint, or remove this setting.".to_owned(),
            });
        }
        let retention = self.retention.rejections_days.days();
        if retention.is_zero() || retention >= self.webhook.parked_ttl_days.days() {
            return Ok(());
        }
        Err(InvalidSetting {
            key: "retention.rejections_days",
            rule: "must be 0, or at least webhook.parked_ttl_days. Parked notifications would be deleted too early.".to_owned(),
        })
    }
}

/// The loaded settings, the source of each value, and the endpoints.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The relay's endpoints, built from the settings.
    pub endpoints: Endpoints,
    authorities: Authorities,
    /// The profile that `APP_PROFILE` names.
    pub profile: Profile,
    /// Whether the address of the webhook listener comes from `PORT` alone.
    pub has_platform_address: bool,
    /// Whether systemd waits for messages about the state (`NOTIFY_SOCKET`). An empty variable counts as not set.
    pub notifies_systemd: bool,
    /// The environment variable that names a proxy, which the service does not use.
    pub unused_proxy: Option<&'static str>,
    effective: Vec<EffectiveSetting>,
    warnings: Vec<ConfigWarning>,
}

/// Loads the settings. `file` is read instead of the profile's file.
pub fn load(environment: &Environment, file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let profile = Profile::of_environment(environment)?;
    let defaults = include_str!("../../config/default.toml");
    let defaults = Layer::of_toml(defaults, "config/default.toml")?;
    let mut layers = vec![file_layer(profile, file)?, environment.layer(&defaults)?];
    let mut warnings = Vec::new();
    for layer in &mut layers {
        layer.trim_values()?;
        let renamed = layer.rename_keys(&receiver::Settings::RENAMED_KEYS)?;
        warnings.extend(renamed.into_iter().map(ConfigWarning::RenamedKey));
        layer.check_keys(&defaults)?;
        layer.check_not_empty(&receiver::Settings::LISTS_WITH_ITEMS)?;
        references::resolve(layer, environment, &relay::Settings::VERBATIM_KEYS)?;
    }
    let is_listen_set = layers
        .iter()
        .any(|layer| layer.values.contains_key("server.listen"));
    let port = environment.port()?;
    layers.insert(0, defaults);
    if let Some(port) = port {
        let listen = if is_listen_set {
            // An invalid address is reported below, like any other invalid value.
            let listen = merged(&layers).get::<ListenAddress>("server.listen");
            listen.ok().map(|listen| listen.with_port(port))
        } else {
            Some(listeners::platform_address(port))
        };
        if let Some(listen) = listen {
            let mut layer = Layer::new("the environment");
            layer.set("server.listen", listen.to_string(), "PORT");
            layers.push(layer);
        }
    }

    let merged = merged(&layers);
    let effective = effective_settings::all(&merged.cache);
    let mut settings: Settings = serde_path_to_error::deserialize(merged)
        .map_err(|error| error::of_serde(&error, &effective))?;
    apply_libpq_variables(&mut settings.database.url, environment, &effective)?;
    let database = &settings.database.url;
    warnings.extend(warning::of_database_url(
        database,
        profile,
        environment.only_authorities(),
        &effective,
    ));
    warnings.extend(warning::of_secrets(&settings.webhook, profile));
    let built = build_endpoints(&settings, environment.executable());
    let (authorities, endpoints) = built.map_err(|invalid| {
        ConfigError::invalid(invalid.key.to_owned(), invalid.rule, &effective)
    })?;
    let has_proxy = settings.relay.has_proxy();
    Ok(Loaded {
        settings,
        endpoints,
        authorities,
        profile,
        has_platform_address: port.is_some() && !is_listen_set,
        notifies_systemd: environment.get("NOTIFY_SOCKET").is_some(),
        unused_proxy: environment.proxy_variable().filter(|_| !has_proxy),
        effective,
        warnings,
    })
}

/// Applies the environment variables of libpq to a Postgres URL.
fn apply_libpq_variables(
    url: &mut DatabaseUrl,
    environment: &Environment,
    effective: &[EffectiveSetting],
) -> Result<(), ConfigError> {
    let DatabaseUrl::Postgres(postgres) = url else {
        return Ok(());
    };
    environment.check_libpq_files()?;
    let applied = postgres.with_variables(|name| environment.get(name));
    let applied = applied.map_err(|InvalidVariables { names, error }| {
        let key = "database.url".to_owned();
        let problem = error.to_string();
        if names.is_empty() {
            return ConfigError::invalid(key, problem, effective);
        }
        let origin = names.join(", ");
        ConfigError::Setting {
            key,
            origin,
            problem,
        }
    })?;
    **postgres = applied;
    Ok(())
}

/// Checks the settings, and builds the authorities and the endpoints from them.
fn build_endpoints(
    settings: &Settings,
    executable: &Path,
) -> Result<(Authorities, Endpoints), InvalidSetting> {
    settings.check()?;
    let authorities = settings.tls.authorities()?;
    let endpoints = Endpoints::new(&settings.relay, authorities.clone(), executable)?;
    Ok((authorities, endpoints))
}

/// Merges the layers. Later layers win.
fn merged(layers: &[Layer]) -> Config {
    let builder = layers.iter().fold(Config::builder(), |builder, layer| {
        builder.add_source(layer.clone())
    });
    builder.build().expect("a layer always has its values")
}

impl Loaded {
    /// Fails if the profile requires a secret, and there is none or a short one.
    pub fn check_profile(&self) -> Result<(), ConfigError> {
        let webhook = &self.settings.webhook;
        let is_authentication_off = webhook.secrets().next().is_none();
        let has_short_secret = webhook.has_short_secret(SecretAge::Current);
        match self.profile {
            Profile::Production if is_authentication_off => Err(ConfigError::SecretRequired),
            Profile::Production if has_short_secret => Err(ConfigError::ShortSecret),
            Profile::Production | Profile::Development => Ok(()),
        }
    }

    /// Compiles the jq programs of the endpoints. Fails if one is invalid, or if no process can be started for it.
    pub async fn check_programs(&self) -> Result<(), ConfigError> {
        let checked = self.endpoints.check_programs().await;
        checked.map_err(|invalid| {
            ConfigError::invalid(invalid.key.to_owned(), invalid.rule, &self.effective)
        })
    }

    /// Returns the trusted certificate authorities.
    pub(crate) fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Returns the warnings about the settings.
    #[must_use]
    pub fn warnings(&self) -> &[ConfigWarning] {
        &self.warnings
    }

    /// Returns every setting with its value and its source. Secrets are redacted.
    #[must_use]
    pub fn effective_settings(&self) -> &[EffectiveSetting] {
        &self.effective
    }
}

/// Reads the given file, or else the profile's file. The profile's file is in the working directory; if it is missing, the
/// built-in copy is used.
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
