//! The environment variables of libpq (Postgres documentation, "Environment Variables"). Each works, is refused by name, or is
//! ignored with a warning, as the parameter of the same meaning.
//!
//! sqlx reads only some of them, and ignores the values that it does not know.

use super::error::InvalidDatabaseUrl;
use super::parameters::apply_variable;
use super::session_settings::SessionSettings;
use super::target::Target;

/// The variables and the parameters of the same meaning. A parameter that the URL does not know has no effect.
///
/// sqlx itself reads `PGPASSFILE`.
const VARIABLES: [(&str, &str); 42] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGDATABASE", "dbname"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCLIENTENCODING", "client_encoding"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSERVICE", "service"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGGSSLIB", "gsslib"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
    ("PGMAXPROTOCOLVERSION", "max_protocol_version"),
    ("PGDATESTYLE", "datestyle"),
    ("PGTZ", "timezone"),
    ("PGGEQO", "geqo"),
    // These have no parameter. Without PGSERVICE, the file and the folder of services have no meaning.
    ("PGSERVICEFILE", "the file of services"),
    ("PGSYSCONFDIR", "the folder of services"),
    ("PGLOCALEDIR", "the folder of messages"),
    ("PGREALM", "the realm"),
    ("PGOAUTHDEBUG", "the log of OAuth"),
];

/// The parameters that set one thing.
const ALIASES: [&str; 3] = ["sslmode", "ssl", "requiressl"];

/// Environment variables that have an invalid value, or contradict the URL.
#[derive(Debug)]
pub(crate) struct InvalidVariables {
    /// The variables.
    pub(crate) names: Vec<&'static str>,
    /// The problem.
    pub(crate) error: InvalidDatabaseUrl,
}

/// Applies the variables to what the URL leaves out. Returns their names.
pub(super) fn apply<'a>(
    variable: impl Fn(&str) -> Option<&'a str>,
    target: &mut Target,
) -> Result<Vec<&'static str>, InvalidVariables> {
    let mut applied = Vec::new();
    for (name, parameter) in VARIABLES {
        let Some(value) = variable(name).filter(|_| !is_set(target, parameter)) else {
            continue;
        };
        if value.is_empty() {
            let error = InvalidDatabaseUrl::BlankVariable;
            return Err(InvalidVariables {
                names: vec![name],
                error,
            });
        }
        apply_variable(target, name, parameter, value).map_err(|error| InvalidVariables {
            names: vec![name],
            error,
        })?;
        applied.push(name);
    }
    // sqlx sends these options when it connects. They only get the warnings.
    if let Some(options) = variable("PGOPTIONS") {
        let mut settings = SessionSettings::default();
        settings.extend_from_options(options);
        target.ignored.extend(settings.ignored());
    }
    Ok(applied)
}

fn is_set(target: &Target, parameter: &str) -> bool {
    let is_set = |name: &&str| target.set_by_url.contains(*name);
    if ALIASES.contains(&parameter) {
        ALIASES.iter().any(is_set)
    } else {
        is_set(&parameter)
    }
}
