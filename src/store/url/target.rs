//! The parts and the parameters of a Postgres URL, and sqlx's options for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::error::InvalidDatabaseUrl;
use super::ignored_parameter::IgnoredParameter;
use super::location::Host;
use super::session_settings::SessionSettings;
use super::tls::{PemFile, TlsParameters};

/// The parts and the parameters of a URL.
#[derive(Clone, Default)]
pub(super) struct Target {
    /// The names of the parameters that the URL sets. Its parts count as parameters.
    pub(super) set_by_url: BTreeSet<String>,
    pub(super) host: Option<Host>,
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) fallback_application_name: Option<String>,
    /// The value of `search_path`, and the name of the parameter that set it.
    pub(super) search_path: Option<(&'static str, String)>,
    /// The settings in `options`.
    pub(super) session_settings: SessionSettings,
    /// The rest of `options`, which the server gets when the service connects.
    pub(super) startup_options: Option<String>,
    pub(super) statement_cache_capacity: Option<usize>,
    pub(super) is_behind_pgbouncer: bool,
    pub(super) tls: TlsParameters,
    pub(super) ignored: Vec<IgnoredParameter>,
}

impl Target {
    /// Adds the names of the parts that the URL has.
    pub(super) fn add_parts_to_set(&mut self) {
        let parts = [
            ("host", self.host.is_some()),
            ("port", self.port.is_some()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("dbname", self.database.is_some()),
        ];
        let set = parts.into_iter().filter(|(_, is_set)| *is_set);
        self.set_by_url.extend(set.map(|(name, _)| name.to_owned()));
    }

    /// Adds a text of `options`.
    pub(super) fn add_options(&mut self, options: &str) {
        let others = self.session_settings.extend_from_options(options);
        if !others.is_empty() {
            let startup_options = self.startup_options.get_or_insert_default();
            startup_options.push(' ');
            startup_options.push_str(&others);
        }
    }

    /// Makes sqlx's options through a URL that has only parameters. Otherwise, sqlx would look up the password in `.pgpass` for its
    /// default host. [`super::variables`] has applied the environment variables
    /// of libpq. sqlx reads them too, so every value is set here.
    pub(super) fn sqlx_options(&self) -> Result<PgConnectOptions, InvalidDatabaseUrl> {
        let mut url = Url::parse("postgres://").map_err(|_| InvalidDatabaseUrl::UnknownScheme)?;
        let address = self.address.map(|address| address.to_string());
        let host = match (&address, &self.host) {
            (Some(address), _) => Some(address),
            (None, Some(Host::Name(name) | Host::Socket { folder: name, .. })) => Some(name),
            (None, None) => None,
        };
        let port = self.port.map(|port| port.to_string());
        let path_of = |file: &Option<PemFile>| {
            let file = file.as_ref();
            file.map(|file| file.path.display().to_string())
        };
        let (root, certificate, key) = (
            path_of(&self.tls.root),
            path_of(&self.tls.certificate),
            path_of(&self.tls.key),
        );
        let parameters = [
            ("host", host),
            ("port", port.as_ref()),
            ("user", self.user.as_ref()),
            ("password", self.password.as_ref()),
            ("dbname", self.database.as_ref()),
            ("options", self.startup_options.as_ref()),
            ("sslrootcert", root.as_ref()),
            ("sslcert", certificate.as_ref()),
            ("sslkey", key.as_ref()),
        ];
        let mut pairs = url.query_pairs_mut();
        for (name, value) in parameters {
            if let Some(value) = value {
                pairs.append_pair(name, value);
            }
        }
        drop(pairs);
        let mut options =
            PgConnectOptions::from_url(&url).map_err(|_| InvalidDatabaseUrl::UnknownScheme)?;
        if self.tls.root.is_none() {
            // sqlx would read the file in `PGSSLROOTCERT`, even if the URL says `sslrootcert=system`.
            options = options.ssl_root_cert_from_pem(Vec::new());
        }
        if options.get_host().is_empty() {
            // sqlx takes an empty `PGHOST` for a name.
            options = options.host("localhost");
        }
        Ok(options)
    }
}
