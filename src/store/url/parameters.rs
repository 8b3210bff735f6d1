//! The parameters of a Postgres URL. Each one works, is refused by name, or is ignored with a warning.

use std::collections::BTreeSet;

use super::error::InvalidDatabaseUrl;
use super::ignored_parameter::{IgnoredParameter, USE_TIMEOUT};
use super::location::{parse_host, parse_port};
use super::query::{check_name, split};
use super::suggestion::suggestion;
use super::target::Target;
use super::tls::TlsMode;

/// The parameters that work. An unknown name that is similar to one of them is refused.
const SUPPORTED: [&str; 22] = [
    "application_name",
    "channel_binding",
    "currentSchema",
    "dbname",
    "fallback_application_name",
    "host",
    "hostaddr",
    "options",
    "password",
    "pgbouncer",
    "port",
    "requiressl",
    "schema",
    "search_path",
    "ssl",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "target_session_attrs",
    "user",
];

/// Other names that sqlx accepts.
const ALIASES: [(&str, &str); 5] = [
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
];

/// The parameters that work only with these values, in lower case: the service always behaves like that.
const FIXED: [(&str, &[&str], &str); 9] = [
    (
        "target_session_attrs",
        &["any", "read-write", "primary"],
        "any, read-write or primary, because the service writes",
    ),
    ("client_encoding", &["utf8", "utf-8", "auto"], "utf8"),
    ("gssencmode", &["disable", "prefer"], "disable or prefer"),
    ("sslnegotiation", &["postgres"], "postgres"),
    ("sslsni", &["1"], "1"),
    ("sslcertmode", &["allow"], "allow"),
    (
        "ssl_min_protocol_version",
        &["", "tlsv1", "tlsv1.1", "tlsv1.2"],
        "TLSv1.2, the lowest version that the service accepts",
    ),
    ("replication", &["false", "off", "no", "0"], "false"),
    ("sslcompression", &["0"], "0"),
];

/// The parameters that cannot be ignored: the connection would be less safe, or lead to another database.
const UNSUPPORTED: [(&str, &str); 13] = [
    ("sslcrl", "Remove it: revocation lists are not read."),
    ("sslcrldir", "Remove it: revocation lists are not read."),
    ("sslpassword", "Decrypt the key file instead."),
    ("sslaccept", "Use sslmode=verify-full."),
    ("sslidentity", "Use sslcert and sslkey."),
    ("ssl_max_protocol_version", "Remove it."),
    (
        "require_auth",
        "Remove it, or demand the method in pg_hba.conf.",
    ),
    ("requirepeer", "Remove it."),
    ("passfile", "Set the environment variable PGPASSFILE."),
    (
        "service",
        "Write the host, the user and the database into the URL.",
    ),
    (
        "servicefile",
        "Write the host, the user and the database into the URL.",
    ),
    ("scram_client_key", "Use a password."),
    ("scram_server_key", "Use a password."),
];

const USE_ACQUIRE_TIMEOUT: &str = "use database.acquire_timeout_secs";

const USE_MAX_CONNECTIONS: &str = "use database.max_connections";

/// The parameters that are ignored, and the settings to use instead.
const REPLACED: [(&str, &str); 11] = [
    ("connect_timeout", USE_ACQUIRE_TIMEOUT),
    ("pool_timeout", USE_ACQUIRE_TIMEOUT),
    ("connection_limit", USE_MAX_CONNECTIONS),
    ("pool_size", USE_MAX_CONNECTIONS),
    ("max_connections", USE_MAX_CONNECTIONS),
    ("pool_max_conns", USE_MAX_CONNECTIONS),
    ("socket_timeout", USE_TIMEOUT),
    ("command_timeout", USE_TIMEOUT),
    ("statement_timeout", USE_TIMEOUT),
    ("lock_timeout", USE_TIMEOUT),
    ("tcp_user_timeout", USE_TIMEOUT),
];

/// Applies the parameters of a query. They win over the other parts of the URL, as in libpq.
pub(super) fn apply(query: &str, target: &mut Target) -> Result<(), InvalidDatabaseUrl> {
    let mut seen = BTreeSet::new();
    let mut unknown = Vec::new();
    for parameter in split(query) {
        let (name, value) = parameter.map_err(|error| after_question_mark(query, error))?;
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        let name = alias.map_or(name, |(_, name)| (*name).to_owned());
        if !is_known(&name) {
            unknown.push(name);
            continue;
        }
        // `options` may occur several times, as in libpq's own variable.
        if name != "options" && !seen.insert(name.clone()) {
            return Err(InvalidDatabaseUrl::Repeated(name));
        }
        if !value.is_empty() {
            target.set_by_url.insert(name.clone());
        }
        set(target, &name, value)?;
    }
    for name in unknown {
        target.ignored.push(ignored(query, &seen, name)?);
    }
    Ok(())
}

/// Applies the value of an environment variable that stands for a parameter.
pub(super) fn apply_variable(
    target: &mut Target,
    variable: &'static str,
    parameter: &str,
    value: &str,
) -> Result<(), InvalidDatabaseUrl> {
    if is_known(parameter) {
        set(target, parameter, value.to_owned())?;
        target.tls.set_source(parameter, variable);
        return Ok(());
    }
    let replaced = REPLACED.iter().find(|(replaced, _)| *replaced == parameter);
    target.ignored.push(IgnoredParameter {
        name: format!("the variable {variable}"),
        advice: replaced.map(|(_, advice)| *advice),
    });
    Ok(())
}

fn is_known(name: &str) -> bool {
    SUPPORTED.contains(&name)
        || name_in_options(name).is_some()
        || FIXED.iter().any(|(fixed, ..)| *fixed == name)
        || UNSUPPORTED
            .iter()
            .any(|(unsupported, _)| *unsupported == name)
}

/// Returns the name of the setting in `options[name]`.
fn name_in_options(parameter: &str) -> Option<&str> {
    parameter.strip_prefix("options[")?.strip_suffix(']')
}

/// Returns the error, or the one of a question mark in the password: then the at sign before the host is in the query.
fn after_question_mark(query: &str, error: InvalidDatabaseUrl) -> InvalidDatabaseUrl {
    if query.contains('@') {
        InvalidDatabaseUrl::UnencodedQuestionMark
    } else {
        error
    }
}

/// Returns an unknown parameter that can be ignored. Its name may be a part of a password, and is then not repeated.
fn ignored(
    query: &str,
    seen: &BTreeSet<String>,
    name: String,
) -> Result<IgnoredParameter, InvalidDatabaseUrl> {
    if let Some((_, advice)) = REPLACED.iter().find(|(replaced, _)| *replaced == name) {
        let advice = Some(*advice);
        return Ok(IgnoredParameter { name, advice });
    }
    if query.contains('@') {
        return Err(InvalidDatabaseUrl::UnencodedQuestionMark);
    }
    if seen.contains("password") {
        return Err(InvalidDatabaseUrl::UnknownBesidePassword);
    }
    check_name(&name)?;
    match suggestion(&name, &SUPPORTED) {
        Some(suggestion) => Err(InvalidDatabaseUrl::Misspelt { name, suggestion }),
        None => Ok(IgnoredParameter { name, advice: None }),
    }
}

/// Applies a known parameter.
fn set(target: &mut Target, name: &str, value: String) -> Result<(), InvalidDatabaseUrl> {
    if let Some((_, values, allowed)) = FIXED.iter().find(|(fixed, ..)| *fixed == name) {
        let is_allowed = values.contains(&value.to_ascii_lowercase().as_str());
        return if is_allowed {
            Ok(())
        } else {
            Err(InvalidDatabaseUrl::value(name, allowed))
        };
    }
    if let Some((_, remedy)) = UNSUPPORTED
        .iter()
        .find(|(unsupported, _)| *unsupported == name)
    {
        let name = name.to_owned();
        return Err(InvalidDatabaseUrl::Unsupported { name, remedy });
    }
    match name {
        "host" => target.host = parse_host(&value)?,
        "hostaddr" if value.contains(',') => return Err(InvalidDatabaseUrl::SeveralHosts),
        "hostaddr" => {
            let address = value.parse();
            let address = address.map_err(|_| InvalidDatabaseUrl::value(name, "an IP address"))?;
            target.address = Some(address);
        }
        "port" => target.port = parse_port(&value)?.or(target.port),
        "user" => target.user = Some(value),
        "password" => target.password = Some(value),
        "dbname" => target.database = Some(value),
        "application_name" => target.application_name = Some(value),
        "fallback_application_name" => target.fallback_application_name = Some(value),
        "schema" => set_search_path(target, "schema", quoted_schema(&value)?)?,
        "currentSchema" => set_search_path(target, "currentSchema", value)?,
        "search_path" => set_search_path(target, "search_path", value)?,
        "pgbouncer" => target.is_behind_pgbouncer = parse_bool(name, &value)?,
        "statement-cache-capacity" => {
            let capacity = value.parse();
            target.statement_cache_capacity =
                Some(capacity.map_err(|_| InvalidDatabaseUrl::value(name, "a number"))?);
        }
        "sslmode" => target.tls.mode = Some(TlsMode::parse(name, &value)?),
        "ssl" => set_ssl(target, "ssl", &value)?,
        "requiressl" => set_ssl(target, "requiressl", &value)?,
        "sslrootcert" | "sslcert" | "sslkey" => target.tls.set_file(name, &value)?,
        "channel_binding" => match value.as_str() {
            "disable" | "prefer" => {}
            "require" => target.tls.binds_channel = true,
            _ => {
                return Err(InvalidDatabaseUrl::value(
                    name,
                    "disable, prefer or require",
                ));
            }
        },
        // In the text of `options`, a plus is a space.
        "options" => target.add_options(&value.replace('+', " ")),
        _ => {
            if let Some(name) = name_in_options(name) {
                target.session_settings.push(name, &value);
            }
        }
    }
    Ok(())
}

fn parse_bool(name: &str, value: &str) -> Result<bool, InvalidDatabaseUrl> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(InvalidDatabaseUrl::value(name, "true or false")),
    }
}

/// Sets the mode in `ssl` or `requiressl`: a boolean, or a value of `sslmode`.
fn set_ssl(target: &mut Target, name: &'static str, value: &str) -> Result<(), InvalidDatabaseUrl> {
    let mode = match parse_bool(name, value) {
        Ok(true) => TlsMode::Require,
        Ok(false) => TlsMode::Disable,
        Err(_) => TlsMode::parse(name, value)?,
    };
    match target.tls.ssl.replace((name, mode)) {
        Some((other, other_mode)) if other_mode != mode => {
            Err(InvalidDatabaseUrl::Contradiction(other, name))
        }
        _ => Ok(()),
    }
}

/// Sets the schema of the tables, which has several names.
fn set_search_path(
    target: &mut Target,
    name: &'static str,
    value: String,
) -> Result<(), InvalidDatabaseUrl> {
    if let Some((other, other_value)) = &target.search_path
        && *other_value != value
        && other_value.trim_matches('"') != value.trim_matches('"')
    {
        return Err(InvalidDatabaseUrl::Contradiction(other, name));
    }
    target.search_path = Some((name, value));
    Ok(())
}

/// Returns the name of a schema as SQL writes it.
fn quoted_schema(name: &str) -> Result<String, InvalidDatabaseUrl> {
    if name.is_empty() {
        return Err(InvalidDatabaseUrl::value("schema", "the name of a schema"));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}
