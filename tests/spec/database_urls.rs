//! `DATABASE_URL` as people write it: each form and parameter works, or one line says why not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::certificates::Identity;
use crate::support::cluster::{Cluster, Durability};
use crate::support::database::Database;
use crate::support::ports::free_port;
use crate::support::program::{Service, path, run, stderr, stdout};

/// Runs a command with this URL in an empty folder.
fn with_url(command: &[&str], url: &str) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), command, &[("DATABASE_URL", url)])
}

/// Fails unless the service can use the database at this URL.
fn assert_works(url: &str) {
    assert_works_with(url, &[]);
}

fn assert_works_with(url: &str, variables: &[(&str, &str)]) {
    let folder = TempDir::new().expect("a folder");
    let mut all = vec![("DATABASE_URL", url)];
    all.extend_from_slice(variables);
    let migrated = run(folder.path(), &["migrate"], &all);
    assert!(migrated.status.success(), "{url}: {}", stderr(&migrated));
}

/// Returns the only line of an error of the configuration.
fn error(url: &str) -> String {
    let output = with_url(&["check-config"], url);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{url}: {message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// Returns the value of `encryption` in the line that a service logs at its start.
fn logged_encryption(url: &str) -> String {
    let folder = TempDir::new().expect("a folder");
    let variables = [("DATABASE_URL", url), ("APP__LOG__FORMAT", "json")];
    let mut service = Service::start(folder.path(), &variables);
    service.signal("-TERM");
    service.wait();
    let log = service.log();
    let line = log
        .iter()
        .find(|line| line.contains("listening for webhooks"));
    let line: serde_json::Value =
        serde_json::from_str(line.unwrap_or_else(|| panic!("{log:?}"))).expect("JSON");
    line["encryption"].as_str().unwrap_or("absent").to_owned()
}

/// A server that offers TLS, and the file of its certificate.
fn tls_server(folder: &Path) -> (Cluster, String) {
    let Identity { certificate, key } = Identity::new(folder, "localhost");
    let cluster = Cluster::start(Durability::NoFsync);
    cluster.serve_tls(&certificate, &key);
    (cluster, certificate.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_over_every_kind_of_address() {
    let cluster = Cluster::start(Durability::NoFsync);
    let database = Database::postgres_on(&cluster).await;
    let name = database.url.rsplit('/').next().expect("a name");
    let (port, folder) = (cluster.port(), cluster.socket_folder().display());
    let encoded = folder.to_string().replace('/', "%2F");

    for url in [
        format!("postgres://postgres@[::1]:{port}/{name}"),
        format!("postgres:///{name}?host=::1&port={port}&user=postgres"),
        format!("postgres://postgres:unused@/{name}?host={folder}&port={port}"),
        format!("postgres://postgres:unused@/{name}?host={folder}/.s.PGSQL.{port}"),
        format!("postgres://postgres@{encoded}:{port}/{name}?sslmode=require"),
        format!("postgres://postgres@localhost:{port}/{name}?connection_limit=1&schema=public"),
        format!("postgres://nobody@db/x?host=127.0.0.1&port={port}&user=postgres&dbname={name}"),
    ] {
        assert_works(&url);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_characters_that_pasting_adds() {
    let postgres = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("url");
    for (before, after) in [("", "\n"), ("\u{feff}", "\r\n"), (" \t", " "), ("\"", "\"")] {
        assert_works(&format!("{before}{}{after}", postgres.url));
        let folder = TempDir::new().expect("a folder");
        let text = format!("{before}sqlite://images.db?mode=rwc{after}");
        for variables in [
            [("DATABASE_URL", text.as_str())],
            [("DATABASE_URL_FILE", &file.display().to_string())],
        ] {
            fs::write(&file, &text).expect("a file");
            let migrated = run(folder.path(), &["migrate"], &variables);
            assert!(migrated.status.success(), "{}", stderr(&migrated));
        }

        let files = fs::read_dir(folder.path()).expect("a folder");
        let files: Vec<_> = files
            .map(|file| file.expect("a file").file_name())
            .collect();
        assert_eq!(files, ["images.db"], "{text:?}");
    }
}

#[test]
fn blank_url_opens_no_other_database() {
    for blank in [" ", "\n", "\"\""] {
        let message = error(blank);
        assert!(
            message.starts_with("error: database.url: has only white space (from DATABASE_URL)"),
            "{message}"
        );
    }
}

#[test]
fn error_never_repeats_password() {
    for password in [
        "hunter2/x",
        "12/hunter2",
        "12#hunter2",
        "hunter2?x",
        "x@hunter2",
    ] {
        for command in ["serve", "check-config", "migrate"] {
            let url = format!("postgres://app:{password}@db/app?sslmode=require");

            let output = with_url(&[command], &url);

            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert!(message.contains("in the password"), "{message}");
            assert!(message.ends_with(".\n"), "{message}");
            for secret in ["hunter2", "12"] {
                assert!(!message.contains(secret), "{message}");
                assert!(!stdout(&output).contains(secret), "{message}");
            }
        }
    }
}

#[test]
fn refuses_parameters_by_name() {
    for (parameters, parts) in [
        ("sslmod=verify-full", ["parameter sslmod ", "Use sslmode"]),
        ("sslmode=on", ["sslmode", "verify-ca or verify-full"]),
        ("sslcrl=/crl.pem", ["sslcrl", "Remove it"]),
        (
            "sslmode=verify-full&sslrootcert=/nowhere/ca.pem",
            ["sslrootcert: the file /nowhere/ca.pem", "No such file"],
        ),
        (
            "sslcert=Cargo.toml&sslkey=Cargo.toml",
            ["sslcert: the file Cargo.toml", "cannot be read in /"],
        ),
        (
            "sslrootcert=/dev/null&sslmode=verify-ca",
            ["/dev/null", "has no certificate in PEM form"],
        ),
        (
            "target_session_attrs=standby",
            ["target_session_attrs", "the service writes"],
        ),
    ] {
        let message = error(&format!("postgres://app:hunter2@db/app?{parameters}"));

        assert!(message.contains("(from DATABASE_URL)"), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
        assert!(!message.contains("hunter2"), "{message}");
    }
    let hosts = error("postgres://a:5432,b:5432/app?target_session_attrs=read-write");
    assert!(hosts.contains("several hosts"), "{hosts}");
}

#[test]
fn warns_about_ignored_parameters_once() {
    let url = "postgres://app@db/app?connect_timeout=10&colour=blue";
    let expected = "warning: database.url: these parameters have no effect: \
         connect_timeout (use database.acquire_timeout_secs), colour (from DATABASE_URL).\n";
    assert_eq!(stderr(&with_url(&["check-config"], url)), expected);

    let folder = TempDir::new().expect("a folder");
    let url = ("DATABASE_URL", "sqlite://images.db?colour=blue");
    let mut service = Service::start(folder.path(), &[url]);
    service.signal("-TERM");
    service.wait();
    let log = service.log();
    let warned = |line: &&String| {
        line.contains("WARN") && line.contains("parameters of the database URL have no effect")
    };
    assert_eq!(log.iter().filter(warned).count(), 1, "{log:?}");
}

#[test]
fn refuses_libpq_variables_by_name() {
    for (name, value) in [
        ("PGSSLMODE", "verify_full"),
        ("PGPORT", "five"),
        ("PGPORT", "0"),
        ("PGSERVICE", "prod"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGSSLKEY", ""),
    ] {
        let check = |url| {
            let folder = TempDir::new().expect("a folder");
            let variables = [("DATABASE_URL", url), (name, value)];
            run(folder.path(), &["check-config"], &variables)
        };
        let refused = check("postgres://app@db/app");

        assert_eq!(refused.status.code(), Some(2));
        let origin = format!("(from {name})");
        assert!(stderr(&refused).contains(&origin), "{}", stderr(&refused));
        assert!(check("sqlite://images.db").status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libpq_variables_check_server() {
    let folder = TempDir::new().expect("a folder");
    let (cluster, ca_file) = tls_server(folder.path());
    let other = Identity::new(folder.path(), "other").ca_file();
    let database = Database::postgres_on(&cluster).await;
    let migrate = |root: &str| {
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("PGSSLMODE", "require"),
            ("PGSSLROOTCERT", root),
        ];
        run(folder.path(), &["migrate"], &variables)
    };

    let (trusted, untrusted, missing) = (
        migrate(&ca_file),
        migrate(&other),
        migrate("/nowhere/ca.pem"),
    );

    assert!(trusted.status.success(), "{}", stderr(&trusted));
    assert!(
        stderr(&untrusted).contains("certificate"),
        "{}",
        stderr(&untrusted)
    );
    let expected = "PGSSLROOTCERT: the file /nowhere/ca.pem cannot be read";
    assert!(stderr(&missing).contains(expected), "{}", stderr(&missing));
}

#[test]
fn warns_that_verify_ca_accepts_any_authority() {
    let folder = TempDir::new().expect("a folder");
    let file = Identity::new(folder.path(), "company").ca_file();
    let url = format!("postgres://db/app?sslmode=verify-ca&sslrootcert={file}");
    let warnings = |variable| {
        let variables = [("DATABASE_URL", url.as_str()), variable];
        stderr(&run(folder.path(), &["check-config"], &variables))
    };

    let warning = "any authority of this system is accepted (from DATABASE_URL)";
    assert!(warnings(("APP_PROFILE", "development")).contains(warning));
    assert_eq!(warnings(("SSL_CERT_FILE", &file)), "");
}

#[test]
fn refuses_paths_of_other_files() {
    for (url, reason) in [
        ("sqlite://~/x.db", "begins with ~"),
        ("sqlite://data/", "names a folder"),
        ("sqlite:////dev/null", "/dev/null is not a regular file"),
    ] {
        let message = error(url);
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn production_warns_about_unverified_server() {
    let warns = |url: &str, profile: &str| {
        let folder = TempDir::new().expect("a folder");
        let variables = [
            ("DATABASE_URL", url),
            ("APP_PROFILE", profile),
            ("CLOUDFLARE_WEBHOOK_SECRET", "a secret of the production"),
        ];
        let output = run(folder.path(), &["check-config"], &variables);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).contains("the identity of the server is not checked")
    };

    assert!(warns("postgres://db/app?sslmode=require", "production"));
    assert!(!warns(
        "postgres://db/app?sslmode=verify-full",
        "production"
    ));
    assert!(!warns("postgres://localhost/app", "production"));
    assert!(!warns("postgres://db/app", "development"));
}

#[test]
fn error_names_socket() {
    let message = stderr(&with_url(
        &["migrate"],
        "postgres://app:hunter2@/app?host=/nowhere",
    ));

    assert!(
        message.contains("database socket /nowhere/.s.PGSQL.5432"),
        "{message}"
    );
    assert!(!message.contains("hunter2"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_says_whether_connection_is_encrypted() {
    let folder = TempDir::new().expect("a folder");
    let (cluster, ca_file) = tls_server(folder.path());
    let database = Database::postgres_on(&cluster).await;
    let port = cluster.port();
    let at_localhost = database.url.replace("127.0.0.1", "localhost");
    let name = database.url.rsplit('/').next().expect("a name");
    let (socket, root) = (cluster.socket_folder().display(), "sslrootcert");

    for (url, encryption) in [
        (database.url.clone(), "TLS, without a check of the server"),
        (
            format!("{}?ssl=true", database.url),
            "TLS, without a check of the server",
        ),
        (format!("{}?sslmode=disable", database.url), "none"),
        (
            format!("{at_localhost}?sslmode=verify-full&{root}={ca_file}"),
            "TLS, with a check of the server",
        ),
        (
            format!("{}?sslmode=require&{root}={ca_file}", database.url),
            "TLS, with a check of the authority but not of the server",
        ),
        (
            format!("postgres://postgres@/{name}?host={socket}&port={port}"),
            "none, local socket",
        ),
        ("sqlite://images.db".to_owned(), "absent"),
    ] {
        assert_eq!(logged_encryption(&url), encryption, "{url}");
    }
    // The name of the certificate is localhost.
    let refused = with_url(
        &["migrate"],
        &format!("{}?sslmode=verify-full&{root}={ca_file}", database.url),
    );
    assert!(
        stderr(&refused).contains("certificate"),
        "{}",
        stderr(&refused)
    );
    // With this parameter, other clients notice a server in the middle. The check of the certificate notices it too.
    let neon = format!("{at_localhost}?sslmode=require&channel_binding=require");
    assert!(!with_url(&["migrate"], &neon).status.success());
    assert_works_with(&neon, &[("SSL_CERT_FILE", &ca_file)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn error_of_server_has_no_line_of_its_source() {
    let database = Database::postgres().await;
    let (server, _) = database.url.rsplit_once('/').expect("a database");

    let message = stderr(&with_url(&["migrate"], &format!("{server}/missing")));

    assert!(message.contains("\"missing\" does not exist"), "{message}");
    assert!(!message.contains("at line"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_waits_for_name_of_server() {
    let database = Database::postgres().await;
    let (folder, ports) = (
        TempDir::new().expect("a folder"),
        [free_port(), free_port()],
    );
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "").expect("a file");
    let mut service = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(r#"mount --bind hosts /etc/hosts && exec "$0" serve"#)
        .arg(path())
        .current_dir(folder.path())
        .env(
            "DATABASE_URL",
            database.url.replace("127.0.0.1", "late.invalid"),
        )
        .env("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "60")
        .env("APP__SERVER__LISTEN", format!("127.0.0.1:{}", ports[0]))
        .env("APP__OPS__LISTEN", format!("127.0.0.1:{}", ports[1]))
        .env("RUST_LOG", "cloudflare_images_webhook=debug")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");

    let mut log = Vec::new();
    for line in BufReader::new(service.stderr.take().expect("a pipe")).lines() {
        log.push(line.expect("text"));
        let last = log.last().expect("a line");
        if last.contains("cannot be resolved, retrying") {
            fs::write(&hosts, "127.0.0.1 late.invalid\n").expect("a file");
        }
        if last.contains("listening for webhooks") {
            break;
        }
    }
    service.kill().expect("it is killed");
    service.wait().expect("it ends");

    let has = |text| log.iter().any(|line| line.contains(text));
    assert!(has("cannot be resolved, retrying"), "{log:?}");
    assert!(has("listening for webhooks"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn url_names_its_connections() {
    let database = Database::postgres().await;
    let url = format!("{}?application_name=images-eu", database.url);
    let folder = TempDir::new().expect("a folder");
    let _service = Service::start(folder.path(), &[("DATABASE_URL", &url)]);

    let named = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'images-eu'";
    assert!(database.count(named).await > 0);
}
