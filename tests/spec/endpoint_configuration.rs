//! Endpoint settings. They are checked at the start. Secrets come from the environment and from
//! files, and are not shown.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::subscriber::{RELAY_SECRET, Subscriber};

/// Runs `check-config` with this file. Returns its exit code and its output.
fn check(folder: &TempDir, file: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    fs::write(folder.path().join("my.toml"), file).expect("a file");
    let output = run(
        folder.path(),
        &["--config", "my.toml", "check-config"],
        variables,
    );
    (output.status.code(), stdout(&output) + &stderr(&output))
}

#[test]
fn shows_endpoint_without_secrets() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("secret.txt"), "SECRET-1\n").expect("a file");
    let file = r#"
[[relay.endpoints]]
name = "crm"
url = "https://crm.example/hooks/SECRET-2?token=SECRET-3"
secret_file = "secret.txt"
headers = { Authorization = "Bearer ${CRM_TOKEN}", X-Plain = "$${CRM_TOKEN}" }
include_fields = { "cloudflare_images.CloudflareImage" = ["id", "status"] }

[[relay.endpoints]]
name = "erp"
url = "http://erp.example"
secrets = ["SECRET-5", "${CRM_TOKEN}"]
"#;

    let (code, shown) = check(&folder, file, &[("CRM_TOKEN", "SECRET-4")]);

    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
    for line in [
        "relay.endpoints[0].name = \"crm\"  # my.toml",
        "relay.endpoints[0].url = \"https://crm.example/***\"  # my.toml",
        "relay.endpoints[0].secret = \"***\"  # my.toml",
        "relay.endpoints[0].headers.Authorization = \"***\"  # my.toml",
        "relay.endpoints[1].secrets = [\"***\", \"***\"]  # my.toml",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
}

/// Asserts that the endpoint is refused with one line that contains this text and the location, and
/// no secret.
fn assert_refused(folder: &TempDir, settings: &str, expected: &str) {
    let (code, printed) = check(folder, &format!("[[relay.endpoints]]\n{settings}"), &[]);

    assert_eq!(code, Some(2), "{settings}: {printed}");
    assert!(
        printed.contains(expected)
            && printed.contains("relay.endpoints")
            && printed.contains("my.toml"),
        "{settings}: {printed}"
    );
    assert!(!printed.contains("SECRET"), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
}

#[test]
fn rejects_invalid_endpoints() {
    let folder = TempDir::new().expect("a folder");
    let required = "name = \"crm\"\nurl = \"https://crm.example/SECRET\"\n";
    for (settings, expected) in [
        ("name = \"crm\"\n", "missing"),
        (
            "name = \"crm\"\nurl = \"crm.example/SECRET\"\n",
            "endpoint \"crm\": url must be a URL such as https://app.example/webhooks/",
        ),
        (
            "name = \"crm\"\nurl = \"https://me:SECRET@crm.example/\"\n",
            "url must not contain a user or password",
        ),
        (
            "name = \"crm\"\nurl = \"http://169.254.169.254/SECRET\"\n",
            "url has a denied address",
        ),
        (
            "name = \"crm\"\nurl = \"http://[fd00:ec2::254]/SECRET\"\n",
            "url has a denied address",
        ),
        (
            "name = \"a b\"\nurl = \"https://crm.example/SECRET\"\n",
            "name must have 1 to 64 letters",
        ),
        (&format!("{required}secret = \"whsec_SECRET!\"\n"), "base64"),
        (
            &format!("{required}secret = \"${{NOT_SET}}\"\n"),
            "the environment variable NOT_SET is not set",
        ),
        (
            &format!("{required}secret = \"SECRET ${{}}\"\n"),
            "${ must be followed by the name of an environment variable and }",
        ),
        (
            &format!("{required}secret = \"SECRET\"\nsecret_file = \"x\"\n"),
            "secret_file is set too",
        ),
        (
            &format!("{required}secret_file = \"SECRET\"\n"),
            "cannot read the file",
        ),
        (
            &format!("{required}events = [\"create\"]\n"),
            "events must be created, updated or deleted",
        ),
        (
            &format!("{required}include_models = [\"store.Order\"]\n"),
            "include_models and exclude_models can only have",
        ),
        (
            &format!("{required}include_fields = {{ \"store.Order\" = [\"id\"] }}\n"),
            "include_fields: unknown model \"store.Order\"",
        ),
        (
            &format!(
                "{required}exclude_fields = {{ \"cloudflare_images.CloudflareImage\" = [\"creatorr\"] }}\n"
            ),
            "exclude_fields: unknown field \"creatorr\" of \"cloudflare_images.CloudflareImage\"",
        ),
        (
            &format!("{required}when = \".a ==\"\n"),
            "`when` is not a valid jq program: syntax error at its end",
        ),
        (
            &format!("{required}transform = \"nothing\"\n"),
            "`transform` is not a valid jq program: unknown filter \"nothing\"",
        ),
        (
            &format!("{required}headers = {{ webhook-id = \"SECRET\" }}\n"),
            "headers cannot set webhook-id, because the service sets it",
        ),
        (
            &format!("{required}headers = {{ X-Key = \"SECRET\\nSECRET\" }}\n"),
            "headers has a value for x-key that HTTP does not allow",
        ),
        (
            &format!("{required}timeout_secs = 0\n"),
            "must be a whole number from 1 to 300",
        ),
        (
            &format!("{required}retry = {{ backoff_factor = 0.5 }}\n"),
            "retry.backoff_factor must be from 1 to 100",
        ),
        (
            &format!("{required}signatures = [\"hmac\"]\n"),
            "signatures must be timestamped or standard",
        ),
        (&format!("{required}sekret = \"SECRET\"\n"), "sekret"),
    ] {
        assert_refused(&folder, settings, expected);
    }
}

#[test]
fn rejects_invalid_authentication_and_repeated_names() {
    let folder = TempDir::new().expect("a folder");
    let required = "name = \"crm\"\nurl = \"https://crm.example/SECRET\"\n";
    for (settings, expected) in [
        (&format!("{required}auth = \"SECRET\"\n"), "must be"),
        (
            &format!(
                "{required}auth = {{ type = \"oauth2\", client_id = \"me\", \
                 token_url = \"https://auth.example\", client_secret = [\"SECRET\"] }}\n"
            ),
            "must be",
        ),
        (
            &format!("{required}\n[[relay.endpoints]]\n{required}"),
            "the name is used twice or reserved",
        ),
    ] {
        assert_refused(&folder, settings, expected);
    }
}

#[test]
fn hides_invalid_values() {
    let folder = TempDir::new().expect("a folder");
    let required = "[[relay.endpoints]]\nname = \"crm\"\nurl = \"https://crm.example/\"\n";
    for (file, key, expected) in [
        (
            "[relay]\non_failure = \"SECRET\"\n",
            "relay.on_failure",
            "must be log or callback",
        ),
        (
            &format!("{required}auth = {{ type = \"SECRET\" }}\n"),
            "relay.endpoints[0].auth",
            "must be `oauth2`",
        ),
        (
            &format!("{required}paused = \"SECRET\"\n"),
            "relay.endpoints[0].paused",
            "must be true or false",
        ),
        (
            "[relay]\nendpoints = [\"SECRET\"]\n",
            "relay.endpoints[0]",
            "must be a table with a name and a url",
        ),
    ] {
        let (code, printed) = check(&folder, file, &[]);

        assert_eq!(code, Some(2), "{printed}");
        assert!(
            printed.contains(key) && printed.contains(expected),
            "{printed}"
        );
        assert!(!printed.contains("SECRET"), "{printed}");
    }
}

#[test]
fn accepts_durations_with_units() {
    let folder = TempDir::new().expect("a folder");
    let exit_code = |settings: &str| {
        let required = "[[relay.endpoints]]\nname = \"crm\"\nurl = \"https://crm.example/\"\n";
        check(&folder, &format!("{required}{settings}\n"), &[]).0
    };

    for settings in [
        "timeout_secs = \"5m\"",
        "retry = { delay_secs = \"1d\", max_delay_secs = \"7d\" }",
    ] {
        assert_eq!(exit_code(settings), Some(0), "{settings}");
    }
    for settings in [
        "timeout_secs = \"6m\"",
        "retry = { delay_secs = \"25h\" }",
        "retry = { max_delay_secs = \"8d\" }",
    ] {
        assert_eq!(exit_code(settings), Some(2), "{settings}");
    }
}

#[test]
fn example_is_valid_with_every_option() {
    let folder = TempDir::new().expect("a folder");
    let example = include_str!("../../config/relay.toml");
    // A comment that looks like a key or a table.
    let is_option = |line: &str| {
        line.strip_prefix("# ").is_some_and(|text| {
            text.starts_with(['"', '['])
                || text
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
        })
    };
    let with_options: Vec<&str> = example
        .lines()
        .map(|line| if is_option(line) { &line[2..] } else { line })
        .filter(|line| !line.starts_with("Authorization"))
        .collect();
    for option in ["type = \"oauth2\"", "name = \"stream\""] {
        assert!(
            with_options.contains(&option),
            "the option {option} was not found"
        );
    }
    let variables = [
        ("APP_WEBHOOK_SECRET", "SECRET"),
        ("APP_WEBHOOK_SECRET_BEFORE", "SECRET"),
        ("APP_TOKEN", "SECRET"),
        ("OAUTH_CLIENT_SECRET", "SECRET"),
        ("NATS_USER", "images"),
        ("NATS_PASSWORD", "SECRET"),
    ];

    for file in [example.to_owned(), with_options.join("\n")] {
        let (code, shown) = check(&folder, &file, &variables);
        assert_eq!(code, Some(0), "{shown}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}

#[test]
fn denies_metadata_addresses_in_every_notation() {
    let folder = TempDir::new().expect("a folder");
    let tokens = "type = \"oauth2\", client_id = \"me\", client_secret = \"SECRET\"";
    for host in [
        "169.254.169.254.",
        "169.254.43518",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "%31%36%39.254.169.254",
        "１６９.254.169.254",
        "[fd00:ec2::23]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd00:100::100:200]",
        "[fd00:a9fe:a9fe::1]",
        "[::ffff:169.254.169.254]",
        "[2001:0:101:101::5601:5601]",
        "[2606:4700::5efe:169.254.169.254]",
    ] {
        let denied = "url has a denied address";
        for scheme in ["http", "nats", "tls"] {
            let settings = format!("name = \"crm\"\nurl = \"{scheme}://{host}\"\n");
            assert_refused(&folder, &settings, denied);
        }
        let settings = format!(
            "name = \"crm\"\nurl = \"https://crm.example\"\n\
             auth = {{ {tokens}, token_url = \"http://{host}/\" }}\n"
        );
        assert_refused(&folder, &settings, &format!("auth.token_{denied}"));
    }
}

#[test]
fn deny_private_rejects_private_addresses() {
    let folder = TempDir::new().expect("a folder");
    let file = "[relay]\ndeny_private = true\n[[relay.endpoints]]\nname = \"crm\"\nurl = \"http://10.0.0.1/\"\n";

    let (code, printed) = check(&folder, file, &[]);

    assert_eq!(code, Some(2));
    assert!(printed.contains("url has a denied address"), "{printed}");
}

on_both_databases!(denies_names_with_private_addresses,);

async fn denies_names_with_private_addresses(database: Database) {
    let subscriber = Subscriber::start().await;
    let port = subscriber
        .url()
        .split(':')
        .next_back()
        .expect("a port")
        .to_owned();
    // The name resolves to 127.0.0.1 or ::1 on every machine.
    let endpoints = json!([{
        "name": "app", "url": format!("http://localhost:{port}"), "secret": RELAY_SECRET, "events": ["updated"],
        "retry": {"max_retries": 0},
    }])
    .to_string();
    let app = App::start_with(
        database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ("APP__RELAY__DENY_PRIVATE", "true"),
        ],
    )
    .await;
    app.database.register("image").await;

    assert_eq!(
        app.post_webhook(r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );

    crate::support::wait::until_async("the delivery has failed", async || {
        app.database
            .texts("SELECT status FROM relay_deliveries")
            .await
            == ["failed"]
    })
    .await;
    let error = app.database.deliveries().await[0]["error"].clone();
    assert!(
        error
            .as_str()
            .expect("text")
            .contains("every address of the host is denied"),
        "{error}"
    );
    assert_eq!(subscriber.received().len(), 0);
}
