//! Postgres URLs: the host, the user and the database. Both forms of libpq work: in the parts of the URL, and as parameters.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use sqlx::postgres::PgConnectOptions;

use super::error::InvalidDatabaseUrl;
use super::ignored_parameter::IgnoredParameter;
use super::label::{label, socket_folder};
use super::location::{Host, parse_location};
use super::parameters::apply;
use super::query::decode;
use super::session_settings::SessionSettings;
use super::target::Target;
use super::tls::{PemFile, TlsMode};
use super::variables::{self, InvalidVariables};
use crate::config_types::InvalidSetting;

/// The name of the connections in `pg_stat_activity`, unless the URL has another one.
const APPLICATION_NAME: &str = "cloudflare-images-webhook";

/// A Postgres server, and how to connect to it.
#[derive(Clone)]
pub struct PostgresUrl {
    pub(in crate::store) options: PgConnectOptions,
    /// The settings of each session.
    pub(in crate::store) session_settings: SessionSettings,
    /// Whether the URL says that a connection pooler is in front of the server (`pgbouncer=true`).
    pub is_behind_pgbouncer: bool,
    pub(super) tls: TlsMode,
    pub(super) ignored: Vec<IgnoredParameter>,
    files: Vec<PemFile>,
    /// The parts and the parameters, as the URL has them.
    target: Target,
}

impl PostgresUrl {
    fn of_target(url: &Target) -> Result<Self, InvalidDatabaseUrl> {
        let mut target = url.clone();
        if let Some(Host::Socket {
            port: Some(port), ..
        }) = target.host
        {
            target.port = Some(port);
        }
        let mut options = target.sqlx_options()?;
        let mut tls = target.tls.resolve(&mut target.ignored)?;
        target.ignored.extend(target.session_settings.ignored());
        if target.address.is_some() && target.host.is_some() && tls == TlsMode::VerifyFull {
            return Err(InvalidDatabaseUrl::Unsupported {
                name: "hostaddr".to_owned(),
                remedy: "With sslmode=verify-full, use only the host.",
            });
        }
        // As in libpq: a socket has no TLS.
        if socket_folder(&options).is_some() {
            tls = TlsMode::Disable;
        }
        options = options.ssl_mode(tls.to_sqlx());
        let name = target.application_name.or(target.fallback_application_name);
        let name = name.or_else(|| options.get_application_name().map(str::to_owned));
        options = options.application_name(name.as_deref().unwrap_or(APPLICATION_NAME));
        if let Some(capacity) = target.statement_cache_capacity {
            options = options.statement_cache_capacity(capacity);
        }
        let mut session_settings = target.session_settings;
        if let Some((_, search_path)) = target.search_path {
            session_settings.push("search_path", &search_path);
        }
        Ok(Self {
            options,
            session_settings,
            is_behind_pgbouncer: target.is_behind_pgbouncer,
            tls,
            ignored: target.ignored,
            files: target.tls.files().cloned().collect(),
            target: url.clone(),
        })
    }

    /// Applies the environment variables of libpq to what the URL leaves out. `variable` returns the value of a variable.
    pub(crate) fn with_variables<'a>(
        &self,
        variable: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, InvalidVariables> {
        let mut target = self.target.clone();
        let applied = variables::apply(variable, &mut target)?;
        Self::of_target(&target).map_err(|error| InvalidVariables {
            names: applied,
            error,
        })
    }

    /// Fails if a certificate or key file is unusable.
    pub(in crate::store) fn check_files(&self) -> Result<(), InvalidSetting> {
        self.files.iter().try_for_each(PemFile::check)
    }

    pub(super) fn is_socket(&self) -> bool {
        socket_folder(&self.options).is_some()
    }

    /// Returns whether another server with a certificate of any known authority could pose as the server. sqlx always trusts the
    /// system's authorities, and in this mode no name is checked.
    ///
    /// `authorities` is the file that replaces the system's authorities.
    pub(crate) fn trusts_any_authority(&self, authorities: Option<&str>) -> bool {
        let is_only_authority = |file: &PemFile| authorities.map(Path::new) == Some(&*file.path);
        let has_only_file = self.target_root().is_some_and(is_only_authority);
        self.tls == TlsMode::VerifyCa && !self.is_local() && !has_only_file
    }

    fn target_root(&self) -> Option<&PemFile> {
        self.files.iter().find(|file| file.is_root)
    }

    pub(super) fn is_unverified(&self) -> bool {
        !self.is_local() && self.tls < TlsMode::VerifyFull
    }

    fn is_local(&self) -> bool {
        let host = self.options.get_host();
        match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host == "localhost" || self.is_socket(),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.is_socket() { " " } else { "://" };
        write!(f, "postgres{separator}{}", label(&self.options))
    }
}

/// Parses the text after `postgres://`.
pub(super) fn parse(text: &str) -> Result<PostgresUrl, InvalidDatabaseUrl> {
    if text.contains('#') {
        return Err(InvalidDatabaseUrl::unencoded('#'));
    }
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = address.split_once('/').unwrap_or((address, ""));
    let database = database.strip_suffix('/').unwrap_or(database);
    if authority.matches('@').count() > 1 {
        return Err(InvalidDatabaseUrl::unencoded('@'));
    }
    if database.contains(['@', '/']) {
        return Err(InvalidDatabaseUrl::UnencodedSlash);
    }
    if authority.contains('@') && database.contains('&') && database.contains('=') {
        return Err(InvalidDatabaseUrl::NoQuestionMark);
    }
    // A colon belongs to a port, or to a password with a question mark.
    let has_colon = authority.contains(':') && !authority.starts_with('[');
    if has_colon && !authority.contains('@') && query.contains('@') {
        return Err(InvalidDatabaseUrl::UnencodedQuestionMark);
    }
    // A parameter with a user such as `name@server` has no slash after the at sign. The rest of a password and a host has one.
    let is_cut = |piece: &str| {
        piece
            .split_once('@')
            .is_some_and(|(_, host)| host.contains('/'))
    };
    if query.split('&').any(is_cut) {
        return Err(InvalidDatabaseUrl::UnencodedQuestionMark);
    }

    let mut target = Target::default();
    let (credentials, location) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    target.user = non_empty(decode(user)?);
    target.password = password.map(decode).transpose()?;
    target.database = non_empty(decode(database)?);
    // The parameters come before the host and the port, because only they tell a question mark in the password.
    apply(query, &mut target)?;
    let (host, port) = parse_location(location)?;
    target.host = target.host.or(host);
    target.port = target.port.or(port);
    target.add_parts_to_set();
    PostgresUrl::of_target(&target)
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
