//! The command line.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;

const ALL_SCHEMES: (&str, &str) = (
    "APP__WEBHOOK__SCHEMES",
    "cf-webhook-auth,hmac,timestamped,standard",
);

/// A shell with a folder and an environment that contains the database and the secret.
struct Shell {
    folder: TempDir,
    database: Database,
}

impl Shell {
    fn new(database: Database) -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            database,
        }
    }

    fn variables(&self) -> [(&str, &str); 3] {
        [
            ("DATABASE_URL", &self.database.url),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ALL_SCHEMES,
        ]
    }

    /// Runs a command. Returns its exit code and its output.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = run(self.folder.path(), arguments, &self.variables());
        (output.status.code(), stdout(&output) + &stderr(&output))
    }

    fn serve(&self) -> Service {
        Service::start(self.folder.path(), &self.variables())
    }
}

on_both_databases!(
    adds_shows_and_lists_images,
    lists_images_by_status_and_limit,
    explains_invalid_commands,
    sends_every_shape_and_scheme,
    send_reports_unknown_image,
    healthcheck_reports_readiness,
);

async fn adds_shows_and_lists_images(database: Database) {
    let shell = Shell::new(database);

    let added = shell.run(&[
        "images",
        "add",
        "users/7/cat",
        "--filename",
        "cat.jpg",
        "--creator",
        "ann",
        "--metadata",
        r#"{"album":3}"#,
    ]);
    let again = shell.run(&["images", "add", "users/7/cat"]);
    let shown = shell.run(&["images", "show", "users/7/cat"]);
    let listed = shell.run(&["images", "list"]);
    let json: Value =
        serde_json::from_str(&shell.run(&["images", "show", "users/7/cat", "--json"]).1)
            .expect("JSON");
    let list: Value =
        serde_json::from_str(&shell.run(&["images", "list", "--json"]).1).expect("JSON");

    assert_eq!(added, (Some(0), "registered users/7/cat\n".to_owned()));
    assert_eq!(
        again,
        (
            Some(1),
            "error: the image users/7/cat is already registered. `images show` prints it.\n"
                .to_owned()
        )
    );
    assert!(
        shown.1.contains("cat.jpg") && shown.1.contains("\"album\""),
        "{}",
        shown.1
    );
    assert_eq!(listed.1.lines().count(), 2, "{}", listed.1);
    assert!(
        listed.1.contains("users/7/cat")
            && listed.1.contains("pending")
            && listed.1.contains("ann"),
        "{}",
        listed.1
    );
    assert_eq!(
        (
            &json["status"],
            &json["metadata"]["album"],
            &json["status_at"]
        ),
        (&"pending".into(), &3.into(), &Value::Null)
    );
    assert_eq!(list, Value::Array(vec![json]));
}

async fn lists_images_by_status_and_limit(database: Database) {
    let shell = Shell::new(database);
    for id in ["a", "b", "c"] {
        shell.run(&["images", "add", id]);
    }
    shell
        .database
        .execute(
            "UPDATE cloudflare_images SET status = 'expired' WHERE cloudflare_id = $1",
            &["b"],
        )
        .await;

    let ids = |arguments: &[&str]| {
        let list: Value = serde_json::from_str(&shell.run(arguments).1).expect("JSON");
        list.as_array()
            .expect("a list")
            .iter()
            .map(|image| image["cloudflare_id"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };

    assert_eq!(
        ids(&["images", "list", "--json", "--status", "expired"]),
        ["b"]
    );
    assert_eq!(
        ids(&["images", "list", "--json", "--status", "pending"]),
        ["c", "a"]
    );
    assert_eq!(ids(&["images", "list", "--json", "--limit", "1"]), ["c"]);
    assert_eq!(
        shell.run(&["images", "list", "--status", "failed"]),
        (Some(0), "no images\n".to_owned())
    );
}

async fn explains_invalid_commands(database: Database) {
    let shell = Shell::new(database);
    shell.run(&["migrate"]);
    for (arguments, code, expected) in [
        (
            vec!["images", "show", "nobody"],
            1,
            "there is no image nobody. `images add` registers one.",
        ),
        (
            vec!["images", "delete", "nobody"],
            1,
            "there is no image nobody. Nothing was deleted.",
        ),
        (
            vec!["images", "add", "  "],
            1,
            "the id must be text of 1 to 1024 characters",
        ),
        (
            vec!["images", "add", "x", "--metadata", "nonsense"],
            1,
            "--metadata must be JSON",
        ),
        (
            vec!["images", "add", "x", "--metadata", "[]"],
            1,
            "--metadata must be a JSON object",
        ),
        (
            vec!["images", "list", "--status", "lost"],
            2,
            "must be pending, draft, uploaded, failed or expired",
        ),
        (
            vec!["images", "list", "--limit", "0"],
            2,
            "0 is not in 1..=100000",
        ),
        (vec!["frobnicate"], 2, "unrecognized subcommand"),
    ] {
        let (exit, printed) = shell.run(&arguments);

        assert_eq!(exit, Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(expected), "{arguments:?}: {printed}");
    }
}

async fn sends_every_shape_and_scheme(database: Database) {
    let shell = Shell::new(database);
    shell.run(&["images", "add", "image"]);
    let service = shell.serve();
    let url = service.url();
    let send = |more: &[&str]| shell.run(&[&["send", "image", "--url", &url], more].concat());

    for (shape, outcome) in [
        ("test", "test"),
        ("draft", "applied"),
        ("flat", "applied"),
        ("failed", "applied"),
        ("event", "applied"),
    ] {
        let (code, printed) = send(&["--shape", shape]);

        assert_eq!(code, Some(0), "{shape}: {printed}");
        assert!(
            printed.starts_with(&format!("200 OK\n{{\"outcome\":\"{outcome}\"")),
            "{shape}: {printed}"
        );
    }
    assert_eq!(send(&["--shape", "envelope"]).0, Some(0));
    for scheme in ["hmac", "cf-webhook-auth", "timestamped", "standard"] {
        assert_eq!(send(&["--scheme", scheme]).0, Some(0), "{scheme}");
    }
    let (code, printed) = send(&["--scheme", "none"]);
    assert_eq!(
        (code, printed.lines().next()),
        (Some(1), Some("401 Unauthorized"))
    );
}

async fn send_reports_unknown_image(database: Database) {
    let shell = Shell::new(database);
    let service = shell.serve();

    let (code, printed) = shell.run(&["send", "nobody", "--url", &service.url()]);

    assert_eq!(code, Some(1));
    assert!(
        printed.starts_with("404 Not Found\n") && printed.contains("unknown-image"),
        "{printed}"
    );
}

async fn healthcheck_reports_readiness(database: Database) {
    let shell = Shell::new(database);
    let service = shell.serve();
    let ops = format!("0.0.0.0:{}", service.ops_port);
    let healthcheck = |ops: &str| {
        let variables = [("APP__OPS__LISTEN", ops)];
        run(shell.folder.path(), &["healthcheck"], &variables)
    };

    let ready = healthcheck(&ops);
    let unreachable = healthcheck("127.0.0.1:1");

    assert!(ready.status.success());
    assert!(
        stdout(&ready).contains(r#""status":"ready""#),
        "{}",
        stdout(&ready)
    );
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        stderr(&unreachable).starts_with("error: no response from http://127.0.0.1:1/readyz"),
        "{}",
        stderr(&unreachable)
    );
}

#[test]
fn sends_unauthenticated_without_secret() {
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &[]);

    let plain = run(
        folder.path(),
        &["send", "image", "--shape", "test", "--url", &service.url()],
        &[],
    );
    let signed = run(
        folder.path(),
        &["send", "image", "--scheme", "hmac", "--url", &service.url()],
        &[],
    );

    let guarded = Service::start(folder.path(), &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)]);
    let refused = run(
        folder.path(),
        &["send", "image", "--shape", "test", "--url", &guarded.url()],
        &[],
    );

    assert!(plain.status.success());
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("Set CLOUDFLARE_WEBHOOK_SECRET to the service's secret"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(
        stderr(&signed),
        "error: --scheme hmac needs a secret, and none is configured. Set CLOUDFLARE_WEBHOOK_SECRET.\n"
    );
}

#[test]
fn send_and_healthcheck_use_configured_ports() {
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &[]);
    let (listen, ops) = (
        format!("127.0.0.1:{}", service.port),
        format!("127.0.0.1:{}", service.ops_port),
    );
    let variables = [
        ("APP__SERVER__LISTEN", listen.as_str()),
        ("APP__OPS__LISTEN", ops.as_str()),
    ];

    assert!(
        run(
            folder.path(),
            &["send", "image", "--shape", "test"],
            &variables
        )
        .status
        .success()
    );
    assert!(
        run(folder.path(), &["healthcheck"], &variables)
            .status
            .success()
    );
}

#[test]
fn reports_port_in_use() {
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &[]);
    let listen = format!("127.0.0.1:{}", service.port);

    let output = run(
        folder.path(),
        &["serve"],
        &[("APP__SERVER__LISTEN", &listen)],
    );

    assert_eq!(output.status.code(), Some(1));
    let printed = stderr(&output);
    let last = printed.lines().last().unwrap_or_default();
    assert!(
        last.starts_with(&format!(
            "error: cannot listen on {listen} (server.listen, APP__SERVER__LISTEN or PORT): Address already in use"
        )),
        "{printed}"
    );
}

#[test]
fn reports_unreachable_database() {
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("DATABASE_URL", "postgres://app:hunter2@127.0.0.1:1/app"),
        ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
        ("APP__SERVER__LISTEN", "127.0.0.1:0"),
        ("APP__OPS__LISTEN", "127.0.0.1:0"),
    ];

    for command in ["serve", "migrate"] {
        let output = run(folder.path(), &[command], &variables);

        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            printed.contains("error: database 127.0.0.1:1: ")
                && printed.contains(" failed: ")
                && printed.contains("Connection refused"),
            "{printed}"
        );
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

#[test]
fn help_describes_each_command() {
    let folder = TempDir::new().expect("a folder");

    let output = run(folder.path(), &["--help"], &[]);

    let printed = stdout(&output);
    for command in [
        "serve",
        "migrate",
        "images",
        "rejections",
        "retention",
        "send",
        "check-config",
        "healthcheck",
    ] {
        assert!(
            printed
                .lines()
                .any(|line| line.trim_start().starts_with(command)
                    && line.trim().len() > command.len() + 10),
            "{command}: {printed}"
        );
    }
}

#[test]
fn reading_commands_create_no_database() {
    let folder = TempDir::new().expect("a folder");
    for arguments in [
        &["images", "list"][..],
        &["images", "show", "image"],
        &["rejections", "list"],
        &["retention", "prune", "--dry-run"],
    ] {
        let output = run(
            folder.path(),
            arguments,
            &[("DATABASE_URL", "sqlite://nowhere/images.db")],
        );

        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            stderr(&output),
            "error: there is no database at nowhere/images.db (database.url). `serve` and `migrate` create it.\n"
        );
        assert!(!folder.path().join("nowhere").exists());
    }
}

#[test]
fn bash_completes_commands() {
    let folder = TempDir::new().expect("a folder");
    let completions = run(folder.path(), &["completions", "bash"], &[]);
    let script = folder.path().join("completions");
    fs::write(&script, &completions.stdout).expect("a file");

    // Bash calls the function with the words on the line.
    let complete = r#". "$0"; COMP_WORDS=(cloudflare-images-webhook images sh) COMP_CWORD=2
        function=$(complete -p cloudflare-images-webhook | sed 's/.* -F \([^ ]*\).*/\1/')
        "$function" cloudflare-images-webhook sh images; echo "${COMPREPLY[@]}""#;
    let completed = Command::new("bash")
        .args(["-c", complete])
        .arg(&script)
        .output();

    let completed = completed.expect("bash is installed");
    assert_eq!(stdout(&completed).trim(), "show", "{}", stderr(&completed));
}

/// A wrong configuration must not keep the installation of a package from writing them.
#[test]
fn writes_man_page_of_each_command() {
    let folder = TempDir::new().expect("a folder");
    let variables = [("DATABASE_URL", "wrong://")];

    let written = run(folder.path(), &["man-pages", "new/man1"], &variables);

    assert!(written.status.success(), "{}", stderr(&written));
    for (name, text) in [
        (
            "cloudflare-images-webhook.1",
            "Receives Cloudflare Images webhooks",
        ),
        (
            "cloudflare-images-webhook-images-add.1",
            "Register an expected upload",
        ),
    ] {
        let page = fs::read_to_string(folder.path().join("new/man1").join(name)).expect(name);
        assert!(page.contains(".TH") && page.contains(text), "{page}");
    }
    assert!(
        !folder
            .path()
            .join("new/man1/cloudflare-images-webhook-jq-worker.1")
            .exists()
    );
}
