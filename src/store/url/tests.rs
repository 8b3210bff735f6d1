//! The forms of a URL that work, and the reason for each form that does not.

use super::*;

fn postgres(url: &str) -> Box<PostgresUrl> {
    match url.parse() {
        Ok(DatabaseUrl::Postgres(url)) => url,
        other => panic!("{url}: {other:?}"),
    }
}

fn error(url: &str) -> String {
    match url.parse::<DatabaseUrl>() {
        Ok(url) => panic!("{url:?} is valid"),
        Err(error) => error.to_string(),
    }
}

/// Returns what sqlx connects to: location, user and database.
fn target(url: &str) -> (String, String, String) {
    let options = postgres(url).options;
    let database = options.get_database().unwrap_or_default().to_owned();
    (label(&options), options.get_username().to_owned(), database)
}

/// Returns the password, which sqlx shows only in its own URL.
fn password(url: &str) -> String {
    use sqlx::ConnectOptions as _;

    let url = postgres(url).options.to_url_lossy();
    let password = url.password().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(password);
    decoded.decode_utf8().expect("UTF-8").into_owned()
}

#[test]
fn reads_parts_and_parameters() {
    for (url, location) in [
        ("postgres://me@db:6432/app", "db:6432"),
        ("postgresql://me@db/app", "db:5432"),
        ("postgres://me@db:/app/", "db:5432"),
        ("postgres://me@my_db.internal/app", "my_db.internal:5432"),
        ("postgres://me@127.0.0.1/app", "127.0.0.1:5432"),
        ("postgres://me@[::1]:6432/app", "[::1]:6432"),
        ("postgres://me@[fe80::1%25eth0]/app", "[fe80::1%eth0]:5432"),
        ("postgres:///app?user=me&host=::1", "[::1]:5432"),
        ("postgres:///app?user=me&host=[::1]&port=7", "[::1]:7"),
        ("postgres://?user=me&host=db&port=7&dbname=app", "db:7"),
        (
            "postgres://you@other/b?user=me&host=db&dbname=app",
            "db:5432",
        ),
        ("postgres://me@db/app?hostaddr=192.0.2.1", "192.0.2.1:5432"),
        (
            "postgres://me:p@/app?host=/cloudsql/a:b:c",
            "socket /cloudsql/a:b:c/.s.PGSQL.5432",
        ),
        (
            "postgres://me:p@localhost/app?host=/cloudsql/a:b:c",
            "socket /cloudsql/a:b:c/.s.PGSQL.5432",
        ),
        (
            "postgres://me@/app?host=/run/pg/.s.PGSQL.6432",
            "socket /run/pg/.s.PGSQL.6432",
        ),
        (
            "postgres://me@%2Frun%2Fpg/app",
            "socket /run/pg/.s.PGSQL.5432",
        ),
        (
            "postgres://me@%2Fcloudsql%2Fa:b:c:7/app",
            "socket /cloudsql/a:b:c/.s.PGSQL.7",
        ),
        (
            "postgres://me@%2Fcloudsql%2Fa:b:c/app",
            "socket /cloudsql/a:b:c/.s.PGSQL.5432",
        ),
    ] {
        let expected = (location.to_owned(), "me".to_owned(), "app".to_owned());
        assert_eq!(target(url), expected, "{url}");
    }
}

#[test]
fn decodes_credentials() {
    for (url, expected) in [
        ("postgres://me:p%40s%2Fs%3A%23%3F@db/app", "p@s/s:#?"),
        ("postgres://me:p:a:s@db/app", "p:a:s"),
        ("postgres://me:100%@db/app", "100%"),
        ("postgres://me:p w@db/app", "p w"),
        ("postgres://me:pä+[]@db/app", "pä+[]"),
        ("postgres://me@db/app?password=a%26b+c", "a&b+c"),
        ("postgres:///app?user=me@server&password=p%40", "p@"),
    ] {
        assert_eq!(password(url), expected, "{url}");
    }
    assert_eq!(target("postgres://a%40b:p@db/x%2Fy").1, "a@b");
    assert_eq!(target("postgres://a%40b:p@db/x%2Fy").2, "x/y");
}

#[test]
fn explains_unencoded_characters_without_repeating_them() {
    for (url, reason) in [
        ("postgres://app:SEC@RET@db/app", "Write it as %40"),
        ("postgres://app:SEC#RET@db/app", "Write it as %23"),
        ("postgres://app:123#RET@db/app", "Write it as %23"),
        ("postgres://app:SEC/RET@db/app", "Write it as %2F"),
        ("postgres://app:123/RET@db:5432/app", "Write it as %2F"),
        ("postgres://app:SEC/RET/RET@db/app", "Write it as %2F"),
        ("postgres://app:SEC?RET@db/app", "as %3F"),
        ("postgres://app:123?RET@db/app", "as %3F"),
        ("postgres://app:123?RET&RET=RET@db/app", "as %3F"),
        ("postgres://app:123?sslmode=RET@db/app", "as %3F"),
        ("postgres://app:123?user=RET&RET=1@db", "as %3F"),
        ("postgres://app:123?user=SECRET@db", "as %3F"),
        ("postgres://app:123/4?user=SECRET@db", "as %3F"),
        ("postgres://db/app?password=SEC&RET", "as %26"),
        ("postgres://db/app?password=SEC&RET=1", "as %26"),
        ("postgres://db/app?RET=1&password=SEC", "as %26"),
        ("postgres://db/app?SEC RET=1", "as %26"),
        ("postgres://app:SECRET@db:RET/app", "invalid port"),
        ("postgres://SECRET:RET/app", "invalid port"),
        ("SECRET", "must be sqlite://PATH"),
        ("postgres://app:SEC\nRET@db/app", "on one line"),
        ("postgres://app:SECRET%00RET@db/app", "NUL"),
        ("postgres://app:SECRET%FF@db/app", "not UTF-8"),
    ] {
        let error = error(url);
        assert!(error.contains(reason), "{url}: {error}");
        for part in ["SEC", "RET", "123"] {
            assert!(!error.contains(part), "{url}: {error}");
        }
    }
}

#[test]
fn explains_other_invalid_urls() {
    for (url, reason) in [
        ("", "must be sqlite://PATH"),
        ("images.db", "must be sqlite://PATH"),
        ("mysql://db/app", "must be sqlite://PATH"),
        ("host=db dbname=app", "must be sqlite://PATH"),
        ("postgresql+psycopg://db/app", "Write postgres:// at"),
        ("jdbc:postgresql://db/app", "Write postgres:// at"),
        ("postgres://::1/app", "in brackets"),
        ("postgres://[::g]/app", "in brackets"),
        ("postgres://[::1/app", "in brackets"),
        ("postgres://[::1]5432/app", "in brackets"),
        ("postgres://my db/app", "invalid host"),
        ("postgres://db:0/app", "from 1 to 65535"),
        ("postgres://db:65536/app", "from 1 to 65535"),
        ("postgres://db:+1/app", "from 1 to 65535"),
        ("postgres://db/app?port=5432a", "from 1 to 65535"),
        ("postgres://a,b/app", "several hosts"),
        ("postgres://a:1,b:2/app", "several hosts"),
        ("postgres://db/app?host=a,b", "several hosts"),
        ("postgres://db/app?hostaddr=::1,::2", "several hosts"),
        ("postgres://db/app?port=1,2", "several hosts"),
        ("postgres://db/app/public", "Write it as %2F"),
        (
            "postgres://me@db/app&sslmode=verify-full",
            "Write a \"?\" before the first parameter",
        ),
        ("sqlite://~/x.db", "begins with ~"),
        ("sqlite:~/x.db", "begins with ~"),
        ("sqlite://$HOME/x.db", "has a variable"),
        ("sqlite:///data/${NAME}/x.db", "has a variable"),
        ("sqlite://localhost/x.db", "has a host"),
        (r"sqlite://C:\x.db", "has a path of Windows"),
        ("sqlite:///C:/x.db", "has a path of Windows"),
        (r"sqlite://data\x.db", "has a path of Windows"),
        ("sqlite://x.db#frag", "has a # in its path"),
        ("sqlite://data/", "names a folder"),
        ("sqlite://data/..", "names a folder"),
        ("sqlite://file:x.db", "has file: in its path"),
        ("sqlite:", "has no path"),
        ("sqlite://", "has no path"),
        ("sqlite://?mode=rwc", "has no path"),
        ("sqlite::memory:", "in memory"),
        ("sqlite://:memory:", "in memory"),
        ("sqlite://a?mode=memory", "in memory"),
        ("sqlite://a?mode=ro", "Use rwc"),
        ("sqlite://a?cache=shared", "Use private"),
        ("sqlite://a?immutable=1", "Use 0"),
        ("sqlite://a\nb", "on one line"),
    ] {
        let error = error(url);
        assert!(error.contains(reason), "{url}: {error}");
    }
}

/// Parameters that work, and the warning about those that have no effect.
const ACCEPTED: &[(&str, &str)] = &[
    // Supported values, and values with the service's own behaviour.
    ("target_session_attrs=read-write", ""),
    ("client_encoding=UTF8", ""),
    ("gssencmode=prefer", ""),
    ("pgbouncer=true", ""),
    ("channel_binding=prefer", ""),
    ("options=-c%20geqo%3Doff", ""),
    ("application_name=me", ""),
    ("requiressl=1", ""),
    ("ssl=require&sslmode=verify-full", ""),
    ("statement-cache-capacity=0", ""),
    ("ssl=true&requiressl=1", ""),
    ("schema=a&search_path=a", ""),
    // Ignored, with a warning.
    (
        "connect_timeout=10",
        "connect_timeout (use database.acquire_timeout_secs)",
    ),
    (
        "connection_limit=5",
        "connection_limit (use database.max_connections)",
    ),
    (
        "options=-c%20statement_timeout%3D1%20-cJIT%3Don",
        "statement_timeout in options (use database.timeout_secs), jit in options (the service sets it)",
    ),
    ("keepalives=1", "keepalives"),
    ("colour=blue", "colour"),
    (
        "sslrootcert=/ca.pem",
        "sslrootcert (it needs sslmode=verify-full)",
    ),
    (
        "sslmode=require&channel_binding=require",
        "channel_binding (instead, the certificate is checked as with sslmode=verify-full)",
    ),
    ("pool=5", "pool"),
];

/// Parameters that are refused, and a part of the error.
const REFUSED: &[(&str, &str)] = &[
    (
        "sslmod=verify-full",
        "has the unknown parameter sslmod. Use sslmode.",
    ),
    ("ssl_mode=require", "Use sslmode."),
    ("sslMode=require", "Use sslmode."),
    ("sslfactory=x", "Use sslmode."),
    ("tls=true", "Use sslmode."),
    ("ssl_root_cert=x", "Use sslrootcert."),
    ("chanel_binding=require", "Use channel_binding."),
    ("database=other", "Use dbname."),
    ("username=other", "Use user."),
    ("hots=other", "Use host."),
    (
        "sslmode=on",
        "Use disable, allow, prefer, require, verify-ca or verify-full.",
    ),
    ("sslmode=", "Use disable, allow"),
    ("ssl=maybe", "Use disable, allow"),
    (
        "ssl=true&sslmode=disable",
        "ssl and sslmode, which contradict",
    ),
    (
        "sslmode=disable&requiressl=1",
        "requiressl and sslmode, which contradict",
    ),
    (
        "ssl=true&requiressl=0",
        "ssl and requiressl, which contradict",
    ),
    (
        "currentSchema=a&search_path=b",
        "currentSchema and search_path, which contradict",
    ),
    ("schema=a&search_path=a,b", "schema and search_path, which"),
    (
        "ssl=false&sslmode=require",
        "ssl and sslmode, which contradict",
    ),
    ("sslmode=require&sslmode=disable", "sslmode twice"),
    ("sslmode=require&ssl-mode=disable", "sslmode twice"),
    (
        "sslrootcert=system&sslmode=require",
        "system with sslmode=verify-full",
    ),
    ("sslkey=-----BEGIN PRIVATE KEY-----", "the path of a file"),
    ("sslcert=/client.pem", "Set both"),
    ("sslcrl=/crl.pem", "unsupported parameter sslcrl. Remove it"),
    ("sslpassword=x", "Decrypt the key file"),
    (
        "require_auth=scram-sha-256",
        "unsupported parameter require_auth",
    ),
    ("service=prod", "unsupported parameter service"),
    ("channel_binding=on", "Use disable, prefer or require."),
    ("target_session_attrs=standby", "because the service writes"),
    ("client_encoding=latin1", "Use utf8."),
    ("gssencmode=require", "Use disable or prefer."),
    ("pgbouncer=maybe", "Use true or false."),
    ("schema=", "Use the name of a schema."),
    ("hostaddr=db", "Use an IP address."),
    ("hostaddr=::1&sslmode=verify-full", "use only the host"),
    ("statement-cache-capacity=x", "Use a number."),
    ("sslmode", "Write NAME=VALUE"),
];

#[test]
fn lists_parameters_without_effect() {
    for (parameter, expected) in ACCEPTED {
        let url: DatabaseUrl = format!("postgres://app@db/app?{parameter}")
            .parse()
            .unwrap_or_else(|error| panic!("{parameter}: {error}"));

        let ignored = url.ignored_parameters().iter().map(ToString::to_string);
        let ignored = ignored.collect::<Vec<_>>().join(", ");
        assert_eq!(ignored, *expected, "{parameter}");
    }
}

#[test]
fn refuses_parameters_by_name() {
    for (parameter, reason) in REFUSED {
        let error = error(&format!("postgres://app@db/app?{parameter}"));

        assert!(error.contains(reason), "{parameter}: {error}");
    }
}

#[test]
fn mode_is_never_weaker_than_asked() {
    for (parameters, mode) in [
        ("", tls::TlsMode::Prefer),
        ("sslmode=allow", tls::TlsMode::Prefer),
        ("sslmode=DISABLE", tls::TlsMode::Disable),
        ("sslmode=require", tls::TlsMode::Require),
        ("ssl-mode=verify-ca", tls::TlsMode::VerifyCa),
        ("ssl=true", tls::TlsMode::Require),
        ("ssl=verify-full", tls::TlsMode::VerifyFull),
        ("ssl=true&sslmode=verify-full", tls::TlsMode::VerifyFull),
        (
            "sslmode=require&sslrootcert=/ca.pem",
            tls::TlsMode::VerifyCa,
        ),
        ("sslrootcert=system", tls::TlsMode::VerifyFull),
        ("channel_binding=require", tls::TlsMode::VerifyFull),
        ("host=/run/pg&sslmode=require", tls::TlsMode::Disable),
    ] {
        let url = postgres(&format!("postgres://app@db/app?{parameters}"));
        assert_eq!(url.tls, mode, "{parameters}");
    }
}

#[test]
fn only_remote_hosts_need_verification() {
    for (url, is_unverified) in [
        ("postgres://db/app", true),
        ("postgres://db/app?sslmode=verify-ca", true),
        ("postgres://db/app?sslmode=verify-full", false),
        ("postgres://192.0.2.1/app", true),
        ("postgres://localhost/app", false),
        ("postgres://127.0.0.2/app", false),
        ("postgres://[::1]/app", false),
        ("postgres:///app?host=/run/pg", false),
        ("sqlite://images.db", false),
    ] {
        let parsed: DatabaseUrl = url.parse().expect("a URL");
        assert_eq!(parsed.is_unverified(), is_unverified, "{url}");
    }
}

#[test]
fn sets_session_settings_without_startup_options() {
    let set = |name, value| format!("SELECT set_config(E'{name}', E'{value}', true);");
    for (parameters, expected) in [
        ("schema=my%20app", set("search_path", r#""my app""#)),
        ("schema=o'a\"b", set("search_path", r#""o''a""b""#)),
        ("search_path=a,b", set("search_path", "a,b")),
        ("currentSchema=a", set("search_path", "a")),
        ("options=-c+geqo%3Doff", set("geqo", "off")),
        ("options=-cGEQO%3Doff", set("geqo", "off")),
        ("options=--work-mem%3D8MB", set("work_mem", "8MB")),
        ("options=-c+a.b%3Dx%5C+y%5C%5Cz", set("a.b", r"x y\\z")),
        ("options[geqo]=off", set("geqo", "off")),
        (
            "options=-c%20a.b%3Dc&schema=s",
            set("a.b", "c") + &set("search_path", r#""s""#),
        ),
        ("options=", String::new()),
    ] {
        let url = postgres(&format!("postgres://app@db/app?{parameters}"));
        assert_eq!(url.session_settings.sql(true), expected, "{parameters}");
        assert_eq!(url.options.get_options(), None, "{parameters}");
    }
}

#[test]
fn keeps_options_that_no_setting_replaces() {
    for (parameters, expected, settings) in [
        ("options=endpoint%3Dep-1", "endpoint=ep-1", ""),
        (
            "options=-c+log_connections%3Don",
            "-c log_connections=on",
            "",
        ),
        ("options=-c", "-c", ""),
        (
            "options=-B+4+-c+geqo%3Doff+endpoint%3Dep%5C+1",
            r"-B 4 endpoint=ep\ 1",
            "SELECT set_config(E'geqo', E'off', false);",
        ),
        ("options=-B+4&options=-e", "-B 4 -e", ""),
    ] {
        let url = postgres(&format!("postgres://app@db/app?{parameters}"));
        let options = url.options.get_options().unwrap_or_default();
        assert_eq!(options.trim(), expected, "{parameters}");
        assert_eq!(url.session_settings.sql(false), settings, "{parameters}");
    }
}

#[test]
fn reads_marks_of_poolers() {
    assert!(postgres("postgres://db/app?pgbouncer=true").is_behind_pgbouncer);
    assert!(!postgres("postgres://db/app?pgbouncer=false").is_behind_pgbouncer);
}

#[test]
fn accepts_sqlite_files() {
    for (url, path, ignored) in [
        ("sqlite://data/images.db", "data/images.db", ""),
        ("sqlite:images.db", "images.db", ""),
        ("sqlite:///var/lib/images.db", "/var/lib/images.db", ""),
        ("sqlite://./~/$x#.db", "./~/$x#.db", ""),
        ("sqlite://../localhost", "../localhost", ""),
        ("sqlite://localhost", "localhost", ""),
        ("sqlite://x.db?mode=rwc&cache=private", "x.db", ""),
        (
            "sqlite://x.db?connection_limit=1&_fk=1",
            "x.db",
            "connection_limit, _fk",
        ),
    ] {
        let parsed: DatabaseUrl = url.parse().expect("a URL");
        let found = parsed.ignored_parameters().iter().map(ToString::to_string);
        assert_eq!(found.collect::<Vec<_>>().join(", "), ignored, "{url}");
        assert!(
            matches!(&parsed, DatabaseUrl::Sqlite(file) if file.path.as_os_str() == path),
            "{parsed:?}"
        );
    }
}

#[test]
fn debug_hides_password() {
    for (url, shown) in [
        ("postgres://app:hunter2@db:5432/app", "postgres://db:5432"),
        (
            "postgres://app:hunter2@/app?host=/run/pg",
            "postgres socket /run/pg/.s.PGSQL.5432",
        ),
    ] {
        let url: DatabaseUrl = url.parse().expect("a Postgres URL");
        assert_eq!(format!("{url:?}"), shown);
    }
}

/// Applies these environment variables to a URL.
fn with_variables(
    url: &str,
    variables: &[(&str, &'static str)],
) -> Result<PostgresUrl, (Vec<&'static str>, String)> {
    let value = |name: &str| {
        let mut variables = variables.iter();
        variables
            .find(|(set, _)| *set == name)
            .map(|(_, value)| *value)
    };
    let applied = postgres(url).with_variables(value);
    applied.map_err(|InvalidVariables { names, error }| (names, error.to_string()))
}

#[test]
fn variables_stand_for_missing_parameters() {
    let variables = [
        ("PGHOST", "db"),
        ("PGPORT", "7"),
        ("PGUSER", "me"),
        ("PGPASSWORD", "p"),
        ("PGDATABASE", "app"),
        ("PGSSLMODE", "require"),
        ("PGSSLROOTCERT", "/ca.pem"),
    ];
    for (url, location, user, database, mode) in [
        ("postgres://", "db:7", "me", "app", tls::TlsMode::VerifyCa),
        (
            "postgres://you@other:8/b?ssl=verify-full",
            "other:8",
            "you",
            "b",
            tls::TlsMode::VerifyFull,
        ),
        (
            "postgres://?host=/run/pg",
            "socket /run/pg/.s.PGSQL.7",
            "me",
            "app",
            tls::TlsMode::Disable,
        ),
    ] {
        let url = with_variables(url, &variables).expect("valid variables");

        assert_eq!(label(&url.options), location);
        assert_eq!(url.options.get_username(), user);
        assert_eq!(url.options.get_database(), Some(database));
        assert_eq!(url.tls, mode);
    }
    let address = with_variables("postgres://db/app", &[("PGHOSTADDR", "192.0.2.1")]);
    assert_eq!(label(&address.expect("valid").options), "192.0.2.1:5432");
    let bound = with_variables("postgres://db/app", &[("PGCHANNELBINDING", "require")]);
    assert_eq!(bound.expect("valid").tls, tls::TlsMode::VerifyFull);
}

#[test]
fn refuses_variables_by_name() {
    for (name, value, reason) in [
        ("PGSSLMODE", "verify_full", "sslmode"),
        ("PGPORT", "0", "from 1 to 65535"),
        ("PGHOST", "a,b", "several hosts"),
        ("PGSERVICE", "prod", "unsupported parameter service"),
        ("PGREQUIREAUTH", "scram-sha-256", "parameter require_auth"),
        ("PGREQUIREPEER", "postgres", "parameter requirepeer"),
        ("PGSSLCRL", "/crl.pem", "unsupported parameter sslcrl"),
        ("PGSSLSNI", "0", "sslsni"),
        ("PGTARGETSESSIONATTRS", "standby", "the service writes"),
        ("PGCLIENTENCODING", "LATIN1", "Use utf8"),
        ("PGSSLCERT", "/client.pem", "Set both"),
        ("PGUSER", "", "only white space"),
    ] {
        let (names, error) = with_variables("postgres:///app", &[(name, value)])
            .map(|url| format!("{url:?}"))
            .expect_err(name);

        assert_eq!(names, [name], "{error}");
        assert!(error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn lists_variables_without_effect() {
    for (name, value, expected) in [
        (
            "PGCONNECT_TIMEOUT",
            "10",
            "the variable PGCONNECT_TIMEOUT (use database.acquire_timeout_secs)",
        ),
        ("PGTZ", "UTC", "the variable PGTZ"),
        ("PGSERVICEFILE", "/x", "the variable PGSERVICEFILE"),
        (
            "PGOPTIONS",
            "-c lock_timeout=1",
            "lock_timeout in options (use database.timeout_secs)",
        ),
        ("PGDATA", "/var/lib/postgresql", ""),
    ] {
        let url = with_variables("postgres://db/app", &[(name, value)]).expect(name);

        let ignored = url.ignored.iter().map(ToString::to_string);
        assert_eq!(ignored.collect::<Vec<_>>().join(", "), expected, "{name}");
    }
}

#[test]
fn only_verify_ca_trusts_any_authority() {
    let any = |url: &str| postgres(url).trusts_any_authority(Some("/ca.pem"));

    assert!(any("postgres://db/app?sslmode=verify-ca"));
    assert!(any(
        "postgres://db/app?sslmode=require&sslrootcert=/other.pem"
    ));
    assert!(!any(
        "postgres://db/app?sslmode=verify-ca&sslrootcert=/ca.pem"
    ));
    assert!(!any(
        "postgres://db/app?sslmode=verify-full&sslrootcert=/other.pem"
    ));
    assert!(!any("postgres://localhost/app?sslmode=verify-ca"));
}
