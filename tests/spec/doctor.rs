//! `doctor`: checks the installation, and says what to do.

use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::database::Database;
use crate::support::pooler::Pooler;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;

on_both_databases!(
    healthy_service_passes,
    finds_pending_migrations,
    finds_missing_database,
    finds_weak_and_missing_secrets,
);

/// A running service, and the variables that it and the command have.
struct Installation {
    database: Database,
    service: Service,
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Installation {
    fn start(database: Database) -> Self {
        let folder = TempDir::new().expect("a folder");
        let variables = vec![
            ("DATABASE_URL".to_owned(), database.url.clone()),
            ("CLOUDFLARE_WEBHOOK_SECRET".to_owned(), SECRET.to_owned()),
        ];
        let borrowed: Vec<(&str, &str)> = borrowed(&variables);
        let service = Service::start(folder.path(), &borrowed);
        Self {
            database,
            service,
            folder,
            variables,
        }
    }

    /// Runs `doctor --json` beside the service. These variables win.
    async fn examine(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Report {
        let listen = format!("127.0.0.1:{}", self.service.port);
        let ops = format!("127.0.0.1:{}", self.service.ops_port);
        let mut all = self.variables.clone();
        all.push(("APP__SERVER__LISTEN".to_owned(), listen));
        all.push(("APP__OPS__LISTEN".to_owned(), ops));
        for (name, value) in variables {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        doctor(&self.folder, arguments, all).await
    }
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    let pairs = variables.iter();
    pairs.map(|(name, value)| (&**name, &**value)).collect()
}

/// The output of `doctor --json`.
struct Report {
    output: Output,
    json: Value,
}

/// Runs `doctor --json`.
async fn doctor(folder: &TempDir, arguments: &[&str], variables: Vec<(String, String)>) -> Report {
    let folder = folder.path().to_owned();
    let mut all = vec!["doctor".to_owned(), "--json".to_owned()];
    all.extend(arguments.iter().map(|text| (*text).to_owned()));
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = all.iter().map(String::as_str).collect();
        run(&folder, &arguments, &borrowed(&variables))
    });
    let output = running.await.expect("it ends");
    let printed = stdout(&output);
    assert!(!printed.contains(SECRET) && !stderr(&output).contains(SECRET));
    let json = serde_json::from_str(&printed)
        .unwrap_or_else(|_| panic!("no JSON: {printed} {}", stderr(&output)));
    Report { output, json }
}

impl Report {
    fn check(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().expect("a list");
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no check {name} in {:#}", self.json))
    }

    /// Returns the status of a check, and what it found.
    fn result(&self, name: &str) -> (&str, &str) {
        let check = self.check(name);
        let text = |field: &str| check[field].as_str().expect("text");
        (text("status"), text("found"))
    }

    /// Asserts the status of a check, and a part of what it found. A problem has a remedy.
    fn assert(&self, name: &str, status: &str, found: &str) {
        let result = self.result(name);
        assert_eq!(result.0, status, "{:#}", self.json);
        assert!(result.1.contains(found), "{:#}", self.json);
        let has_remedy = self.check(name)["remedy"].is_string();
        assert_eq!(has_remedy, matches!(status, "warning" | "error"));
    }

    fn exit_code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Returns the names of the checks with this status.
    fn with_status(&self, status: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("a list").iter();
        let found = checks.filter(|check| check["status"] == status);
        found
            .map(|check| check["name"].as_str().expect("text"))
            .collect()
    }
}

async fn healthy_service_passes(database: Database) {
    let installation = Installation::start(database);
    let rows = installation.database.images_and_logs().await;

    let report = installation.examine(&[], &[]).await;

    assert_eq!(report.with_status("error"), Vec::<&str>::new());
    assert_eq!(report.exit_code(), Some(0));
    report.assert("configuration", "ok", "valid");
    report.assert("secret", "ok", "one secret is set");
    report.assert("webhook-listener", "ok", "answers on 127.0.0.1:");
    report.assert("ops-listener", "ok", "ready on 127.0.0.1:");
    report.assert("database", "ok", "answers");
    report.assert("tables", "ok", "all migrations have run");
    report.assert("database-write", "ok", "the audit log can be written");
    report.assert("connection-pooler", "ok", "");
    assert_eq!(installation.database.images_and_logs().await, rows);
}

async fn finds_pending_migrations(database: Database) {
    let installation = Installation::start(database);
    let forget = "DELETE FROM cloudflare_images_webhook_migrations WHERE version > 3";
    installation.database.execute(forget, &[]).await;

    let report = installation.examine(&[], &[]).await;

    report.assert("tables", "error", "pending migrations: [4, 5, 6");
    report.assert("ops-listener", "error", "pending migrations");
    assert_eq!(report.exit_code(), Some(1));
}

async fn finds_missing_database(database: Database) {
    let folder = TempDir::new().expect("a folder");
    let missing = if database.is_postgres() {
        let (server, _) = database.url.rsplit_once('/').expect("a path");
        format!("{server}/missing")
    } else {
        "sqlite://missing.db".to_owned()
    };
    let variables = vec![("DATABASE_URL".to_owned(), missing)];

    let report = doctor(&folder, &[], variables).await;

    report.assert("database", "error", "missing");
    report.assert("tables", "skipped", "the database cannot be used");
    report.assert("database-write", "skipped", "the database cannot be used");
    assert!(!folder.path().join("missing.db").exists());
    assert_eq!(report.exit_code(), Some(1));
}

async fn finds_weak_and_missing_secrets(database: Database) {
    let installation = Installation::start(database);
    for (secret, profile, status, found) in [
        (
            "0123456789",
            "development",
            "warning",
            "fewer than 16 bytes",
        ),
        ("0123456789", "production", "error", "fewer than 16 bytes"),
        ("", "development", "warning", "no secret is set"),
        ("", "production", "error", "no secret is set"),
    ] {
        let variables = [
            ("CLOUDFLARE_WEBHOOK_SECRET", secret),
            ("APP_PROFILE", profile),
        ];

        let report = installation.examine(&[], &variables).await;

        report.assert("secret", status, found);
        assert!(secret.is_empty() || !stdout(&report.output).contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_silent_listeners() {
    let database = Database::sqlite();
    let mut installation = Installation::start(database);
    installation.service.signal("-TERM");
    installation.service.wait();

    let report = installation.examine(&[], &[]).await;

    report.assert(
        "webhook-listener",
        "error",
        "no service answers on 127.0.0.1:",
    );
    report.assert("ops-listener", "error", "no service answers on 127.0.0.1:");
    assert_eq!(report.exit_code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_another_program_on_ports() {
    let installation = Installation::start(Database::sqlite());
    // Each listener is the other program for the other one.
    let listen = format!("127.0.0.1:{}", installation.service.ops_port);
    let ops = format!("127.0.0.1:{}", installation.service.port);
    let swapped = [
        ("APP__SERVER__LISTEN", &*listen),
        ("APP__OPS__LISTEN", &*ops),
    ];

    let report = installation.examine(&[], &swapped).await;

    report.assert("webhook-listener", "error", "another program answers");
    report.assert("ops-listener", "error", "another program answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_read_only_database() {
    let installation = Installation::start(Database::postgres().await);
    let set = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$";
    installation.database.execute_script(set).await;

    let report = installation.examine(&[], &[]).await;

    report.assert("database", "ok", "answers");
    report.assert("database-write", "error", "read-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_suppressed_audit_log() {
    let installation = Installation::start(Database::sqlite());
    let suppress = "CREATE TRIGGER suppress BEFORE INSERT ON cloudflare_image_logs BEGIN SELECT RAISE(IGNORE); END";
    installation.database.execute_script(suppress).await;

    let report = installation.examine(&[], &[]).await;

    report.assert("database-write", "error", "cloudflare_image_logs");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_detected_pooler() {
    let database = Database::postgres().await;
    let pooler = Pooler::in_transaction_mode();
    let url = pooler.url(&database);
    let installation = Installation::start(database);

    let report = installation.examine(&[], &[("DATABASE_URL", &url)]).await;

    report.assert("connection-pooler", "ok", "shares server sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_configuration_is_exit_code_2() {
    let folder = TempDir::new().expect("a folder");
    let variables = [("APP__WEBHOOK__SCHEMES", "rot13")];

    let output = run(folder.path(), &["doctor"], &variables);

    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("webhook.schemes"));
    assert_eq!(stdout(&output), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_warnings_of_configuration() {
    let installation = Installation::start(Database::sqlite());
    let quoted = "'a secret of the tests in quotes'";

    let report = installation
        .examine(&[], &[("CLOUDFLARE_WEBHOOK_SECRET", quoted)])
        .await;

    report.assert("configuration", "warning", "quotes around it");
    assert_eq!(report.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_one_line_and_remedy() {
    let folder = TempDir::new().expect("a folder");

    let output = run(folder.path(), &["doctor"], &[]);

    let printed = stdout(&output);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines[0],
        "ok       configuration      the configuration is valid"
    );
    assert!(lines[1].starts_with("warning  secret"), "{printed}");
    assert!(lines[2].trim_start().starts_with("-> "), "{printed}");
    assert!(
        lines
            .last()
            .is_some_and(|line| line.starts_with("errors: "))
    );
    assert_eq!(output.status.code(), Some(1));
}
