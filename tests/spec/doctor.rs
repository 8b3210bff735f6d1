//! `doctor`: checks the installation, and says what to do.

use std::process::Output;

use axum::Router;
use axum::response::Redirect;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, PATH, client, response_to};
use crate::support::certificates::{Identity, TlsFront};
use crate::support::cloudflare::{ApiFault, Cloudflare, TOKEN};
use crate::support::database::Database;
use crate::support::pooler::Pooler;
use crate::support::ports::free_port;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::serve;

on_both_databases!(
    healthy_service_passes,
    finds_pending_migrations,
    finds_missing_database,
    finds_weak_and_missing_secrets,
    shows_activity_of_service,
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

    report.assert("webhook-listener", "error", "does not have the path");
    report.assert("ops-listener", "error", "another program answers");

    let page = Router::new().fallback(async || "<!doctype html><h1>Welcome</h1>");
    let (page, _serving) = serve(page).await;
    let listen = page.to_string();
    let other = [("APP__SERVER__LISTEN", &*listen)];
    let report = installation.examine(&[], &other).await;
    report.assert("webhook-listener", "error", "another program answers");
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
        "ok       configuration             the configuration is valid"
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

/// An installation with Cloudflare's side, behind HTTPS.
struct Public {
    installation: Installation,
    cloudflare: Cloudflare,
    front: TlsFront,
    ca_file: String,
}

impl Public {
    async fn start() -> Self {
        let installation = Installation::start(Database::sqlite());
        let identity = Identity::new(installation.folder.path(), "public");
        let server = ([127, 0, 0, 1], installation.service.port).into();
        Self {
            cloudflare: Cloudflare::start().await,
            front: TlsFront::start(&identity, server).await,
            ca_file: identity.ca_file(),
            installation,
        }
    }

    fn url(&self) -> String {
        self.front.url(PATH)
    }

    /// Adds the destination and the policy as `cloudflare setup` makes them. Returns the id of the destination.
    fn set_up(&self, is_enabled: bool) -> String {
        let id = self.cloudflare.add_destination("images", &self.url());
        self.cloudflare.add_policy(json!({
            "name": "uploads", "enabled": is_enabled, "alert_type": "image_notification",
            "mechanisms": {"webhooks": [{"id": id}]},
        }));
        id
    }

    async fn examine(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Report {
        let account = self.cloudflare.variables();
        let mut all: Vec<(&str, &str)> = account.iter().map(|(n, v)| (*n, &**v)).collect();
        all.push(("APP__TLS__CA_FILE", &self.ca_file));
        for (name, value) in variables {
            all.retain(|(known, _)| known != name);
            all.push((name, value));
        }
        let report = self.installation.examine(arguments, &all).await;
        assert!(!stdout(&report.output).contains(TOKEN));
        report
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_setup_passes() {
    let public = Public::start().await;
    let id = public.set_up(true);
    let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    public
        .cloudflare
        .set_results(&id, Some(after), Some(before));

    let report = public.examine(&[], &[]).await;

    assert_eq!(report.with_status("error"), Vec::<&str>::new());
    assert_eq!(report.with_status("warning"), ["last-webhook"]);
    assert_eq!(report.with_status("skipped"), Vec::<&str>::new());
    assert_eq!(report.exit_code(), Some(0));
    report.assert("public-url", "ok", "accepts a test message");
    report.assert("api-token", "ok", "does not expire");
    report.assert("notifications-permission", "ok", "list destinations");
    report.assert("images-permission", "ok", "look images up");
    report.assert(
        "destination",
        "ok",
        "\"images\" sends to https://localhost:",
    );
    report.assert("policy", "ok", "enabled");
    report.assert("destination-failures", "ok", "2026-01-02T00:00:00");
    report.assert("clock", "ok", "agrees");
    assert_eq!(
        public.installation.database.log_types().await,
        ["webhook_test"]
    );
    let calls = public.cloudflare.calls().into_iter();
    let changes: Vec<String> = calls.filter(|call| !call.starts_with("GET ")).collect();
    assert_eq!(changes, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn verifies_tokens_of_accounts_and_users() {
    let public = Public::start().await;
    public.set_up(true);
    public.cloudflare.set_token_expiry("2099-01-01T00:00:00Z");

    let of_user = public.examine(&[], &[]).await;
    public.cloudflare.give_token_to_account();
    let of_account = public.examine(&[], &[]).await;

    of_user.assert("api-token", "ok", "active until 2099-01-01");
    of_account.assert("api-token", "ok", "active until 2099-01-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_bad_tokens() {
    let public = Public::start().await;
    public.set_up(true);

    let wrong = public
        .examine(&[], &[("CLOUDFLARE_API_TOKEN", "wrong")])
        .await;

    wrong.assert("api-token", "error", "Cloudflare refused the token");
    wrong.assert("destination", "skipped", "the token does not work");
    wrong.assert("images-permission", "skipped", "the token does not work");
    assert_eq!(wrong.exit_code(), Some(1));

    public.cloudflare.set_token_expiry("2020-01-01T00:00:00Z");
    let past = public.examine(&[], &[]).await;
    past.assert("api-token", "error", "expired at 2020-01-01");

    for status in ["expired", "disabled"] {
        public.cloudflare.set_token_status(status);
        let report = public.examine(&[], &[]).await;
        report.assert("api-token", "error", &format!("the token is {status}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_missing_permissions() {
    for (path, lacking, granted) in [
        ("/images/", "images-permission", "notifications-permission"),
        (
            "/alerting/",
            "notifications-permission",
            "images-permission",
        ),
    ] {
        let public = Public::start().await;
        public.set_up(true);
        public.cloudflare.forbid(path);

        let report = public.examine(&[], &[]).await;

        report.assert(lacking, "error", "no permission");
        assert_eq!(report.result(granted).0, "ok");
        report.assert("api-token", "ok", "active");
        let destination = if path == "/images/" { "ok" } else { "skipped" };
        assert_eq!(report.result("destination").0, destination);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_missing_destination() {
    let public = Public::start().await;

    let unknown = public.examine(&[], &[]).await;
    let missing = public.examine(&["--url", &public.url()], &[]).await;

    unknown.assert(
        "destination",
        "error",
        "no webhook destination has the path",
    );
    unknown.assert("policy", "skipped", "there is no destination");
    unknown.assert("public-url", "skipped", "--url");
    missing.assert(
        "destination",
        "error",
        "no webhook destination has the URL https://",
    );
    missing.assert("public-url", "ok", "accepts a test message");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_destination_that_points_elsewhere() {
    let public = Public::start().await;
    let other = format!("https://user:hidden@old.example.com{PATH}?key=hidden");
    public.cloudflare.add_destination("old", &other);

    let report = public.examine(&["--url", &public.url()], &[]).await;

    report.assert(
        "destination",
        "error",
        "\"old\" sends to https://old.example.com/",
    );
    assert!(!stdout(&report.output).contains("hidden"));
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_disabled_and_missing_policy() {
    let disabled = Public::start().await;
    disabled.set_up(false);
    let missing = Public::start().await;
    missing.cloudflare.add_destination("images", &missing.url());

    let of_disabled = disabled.examine(&[], &[]).await;
    let of_missing = missing.examine(&[], &[]).await;

    of_disabled.assert("policy", "error", "\"uploads\" is disabled");
    of_missing.assert("policy", "error", "no policy sends");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_failure_after_success() {
    let public = Public::start().await;
    let id = public.set_up(true);
    let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    public
        .cloudflare
        .set_results(&id, Some(before), Some(after));

    let report = public.examine(&[], &[]).await;

    report.assert("destination-failures", "warning", "failed at 2026-01-02");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_wrong_clock() {
    let public = Public::start().await;
    public.set_up(true);
    for (offset, status, found) in [
        (20, "ok", "agrees"),
        (-300, "warning", "seconds ahead of Cloudflare's"),
        (300, "warning", "seconds behind Cloudflare's"),
    ] {
        public.cloudflare.move_clock(offset);

        let report = public.examine(&[], &[]).await;

        report.assert("clock", status, found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_what_answers_at_public_url() {
    let public = Public::start().await;
    let ca = ("APP__TLS__CA_FILE", public.ca_file.as_str());
    let other = public.front.url("/other/");
    let url = public.url();
    let unused = format!("https://localhost:{}{PATH}", free_port());
    let page = Router::new().fallback(async || "<!doctype html><h1>Welcome</h1>");
    let (page, _serving) = serve(page).await;
    let page = format!("http://{page}{PATH}");
    let redirect = Router::new().fallback(async || Redirect::permanent("https://example.com/"));
    let (redirect, _serving) = serve(redirect).await;
    let redirect = format!("http://{redirect}{PATH}");
    let secret = (
        "CLOUDFLARE_WEBHOOK_SECRET",
        "another secret, as long as the first",
    );
    for (url, variables, status, found) in [
        (&url, vec![ca], "ok", "accepts a test message"),
        (&url, vec![], "error", "webhook/: invalid peer certificate"),
        (
            &url,
            vec![("SSL_CERT_FILE", "/nowhere")],
            "skipped",
            "no certificate authorities",
        ),
        (&url, vec![ca, secret], "error", "refuses the first secret"),
        (&other, vec![ca], "error", "its path is not webhook.path"),
        (&unused, vec![ca], "error", "no connection"),
        (&page, vec![], "error", "the answer is not of this service"),
        (&redirect, vec![], "error", "a redirect (308)"),
        (
            &public.installation.service.url(),
            vec![],
            "warning",
            "leads to this machine",
        ),
        (
            &"http://images.example.com/".to_owned(),
            vec![],
            "error",
            "is not HTTPS",
        ),
    ] {
        let report = public
            .installation
            .examine(&["--url", url], &variables)
            .await;

        report.assert("public-url", status, found);
        report.assert("api-token", "skipped", "no account is set");
        report.assert("clock", "skipped", "no account is set");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_api_fails_and_ends() {
    let public = Public::start().await;
    public.set_up(true);
    for fault in [ApiFault::Html(503), ApiFault::NoAnswer, ApiFault::NoBody] {
        public.cloudflare.fail_always(Some(fault));

        let timeout = [("APP__CLOUDFLARE__TIMEOUT_SECS", "1")];
        let report = public.examine(&[], &timeout).await;

        report.assert("api-token", "error", "Cloudflare is not available");
        report.assert("destination", "skipped", "the token does not work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_database_fails_and_ends() {
    let installation = Installation::start(Database::postgres().await);
    let lock = "LOCK TABLE cloudflare_image_logs";
    let lock = installation.database.hold_lock_of(lock).await;

    let timeout = [("APP__DATABASE__TIMEOUT_SECS", "1")];
    let report = installation.examine(&[], &timeout).await;

    lock.release().await;
    report.assert("database-write", "error", "trying the audit log");
    report.assert("last-webhook", "error", "finding the last");
}

#[tokio::test]
async fn refuses_url_that_is_none() {
    let folder = TempDir::new().expect("a folder");

    let output = run(folder.path(), &["doctor", "--url", "images"], &[]);

    assert_eq!(output.status.code(), Some(2));
}

async fn shows_activity_of_service(database: Database) {
    let installation = Installation::start(database);
    let post = async |body: Value| {
        let request = client().post(installation.service.url());
        let request = request.header("cf-webhook-auth", SECRET);
        response_to(request.body(body.to_string())).await.status
    };
    installation.database.register("image-1").await;
    assert_eq!(
        post(json!({"id": "image-1", "uploaded": "2026-01-01T00:00:00Z"})).await,
        200
    );

    let report = installation.examine(&[], &[]).await;

    report.assert("last-webhook", "ok", "less than 2 minutes ago");
    report.assert("last-webhook", "ok", "its scheme is unknown");
    report.assert("refused-webhooks", "ok", "none");
    report.assert("unread-notification", "ok", "could be read");
    report.assert("waiting-images", "ok", "0 still wait");
    report.assert("parked-notifications", "ok", "none");
    report.assert("failed-deliveries", "ok", "none");

    let unread = json!({
        "data": {"picture": {"key": "HIDDEN-1"}, "list": [{"a/b": "HIDDEN-2"}]}, "ts": 1_704_110_400,
        "alert_type": "image_notification", "name": "HIDDEN-3", "text": "HIDDEN-4",
    });
    assert_eq!(post(unread).await, 400);
    assert_eq!(
        post(json!({"id": "image-2", "uploaded": "2026-01-01T00:00:00Z"})).await,
        404
    );
    let time = if installation.database.is_postgres() {
        "(now() - interval '2 hours')"
    } else {
        "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-2 hours')"
    };
    let script = format!(
        "UPDATE webhook_rejections SET parked_at = {time} WHERE state = 'parked';
         INSERT INTO cloudflare_images (cloudflare_id, created_at) VALUES ('old', {time});
         INSERT INTO relay_deliveries (event_id, endpoint, status, created_at, completed_at)
             VALUES ('evt_1', 'app', 'failed', {time}, {time})"
    );
    installation.database.execute_script(&script).await;

    let report = installation.examine(&[], &[]).await;

    let printed = stdout(&report.output);
    assert!(!printed.contains("HIDDEN"), "{printed}");
    report.assert("last-webhook", "ok", "its scheme was cf-webhook-auth");
    report.assert(
        "refused-webhooks",
        "warning",
        "1 invalid-payload, 1 unknown-image",
    );
    report.assert("unread-notification", "warning", "/data/picture/key");
    report.assert("unread-notification", "warning", "/data/list/0/a~1b");
    report.assert("waiting-images", "warning", "1 still wait");
    report.assert("parked-notifications", "warning", "1 wait");
    report.assert("failed-deliveries", "warning", "app: 1");
    assert_eq!(report.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn guide_lists_every_check() {
    let report = Installation::start(Database::sqlite())
        .examine(&[], &[])
        .await;
    let guide = include_str!("../../docs/src/guides/check-the-installation.md");

    let checks = report.json["checks"].as_array().expect("a list");
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().expect("text"))
        .collect();

    let (_, section) = guide.split_once("## What it checks").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = rows
        .filter_map(|row| row.split_once("` |").map(|(name, _)| name))
        .collect();
    assert_eq!(listed, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn understands_list_of_allowed_addresses() {
    let list = ("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24");
    let proxy = ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1/32");
    for (variables, listener, found_at_listener, found_at_url) in [
        (
            vec![list],
            "warning",
            "closed the connection",
            "no complete answer",
        ),
        (
            vec![list, proxy],
            "ok",
            "the service answers",
            "refuses the address of this machine",
        ),
    ] {
        let app = App::start_with(Database::sqlite(), &variables).await;
        let folder = TempDir::new().expect("a folder");
        let own = [
            ("DATABASE_URL", app.database.url.clone()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET.to_owned()),
            ("APP__SERVER__LISTEN", app.address.to_string()),
            ("APP__OPS__LISTEN", app.ops.to_string()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));

        let report = doctor(&folder, &["--url", &app.url()], own.into()).await;

        report.assert("webhook-listener", listener, found_at_listener);
        let (_, found) = report.result("public-url");
        assert!(found.contains(found_at_url), "{:#}", report.json);
    }
}
