//! Endpoints are settings like any other: checked at the start, with secrets from the environment and from files, and shown without them.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::subscriber::{RELAY_SECRET, Subscriber};

/// What `check-config` says of this file, and its exit code.
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
fn an_endpoint_is_shown_without_its_secrets() {
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

/// Holds it to be refused with one sentence that says this, where it is, and no secret.
fn refuses(folder: &TempDir, settings: &str, says: &str) {
    let (code, said) = check(folder, &format!("[[relay.endpoints]]\n{settings}"), &[]);

    assert_eq!(code, Some(2), "{settings}: {said}");
    assert!(
        said.contains(says) && said.contains("relay.endpoints") && said.contains("my.toml"),
        "{settings}: {said}"
    );
    assert!(!said.contains("SECRET"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_wrong_endpoint_ends_the_start_with_one_sentence() {
    let folder = TempDir::new().expect("a folder");
    let good = "name = \"crm\"\nurl = \"https://crm.example/SECRET\"\n";
    for (settings, says) in [
        ("name = \"crm\"\n", "missing"),
        (
            "name = \"crm\"\nurl = \"crm.example/SECRET\"\n",
            "must have a url such as https://app.example/webhooks/",
        ),
        (
            "name = \"crm\"\nurl = \"https://me:SECRET@crm.example/\"\n",
            "must have a url without a user and a password",
        ),
        (
            "name = \"crm\"\nurl = \"http://169.254.169.254/SECRET\"\n",
            "has a url to an address that nothing is sent to",
        ),
        (
            "name = \"crm\"\nurl = \"http://[fd00:ec2::254]/SECRET\"\n",
            "has a url to an address that nothing is sent to",
        ),
        (
            "name = \"a b\"\nurl = \"https://crm.example/SECRET\"\n",
            "must have a name of up to 64 letters",
        ),
        (&format!("{good}secret = \"whsec_SECRET\"\n"), "base64"),
        (
            &format!("{good}secret = \"${{NOT_SET}}\"\n"),
            "names the environment variable NOT_SET, which is not set",
        ),
        (
            &format!("{good}secret = \"SECRET ${{}}\"\n"),
            "has a ${ that no NAME} follows",
        ),
        (
            &format!("{good}secret = \"SECRET\"\nsecret_file = \"x\"\n"),
            "are both set",
        ),
        (
            &format!("{good}secret_file = \"SECRET\"\n"),
            "cannot be read",
        ),
        (
            &format!("{good}events = [\"create\"]\n"),
            "has events that are not created, updated or deleted",
        ),
        (
            &format!("{good}include_models = [\"store.Order\"]\n"),
            "has models that are not",
        ),
        (
            &format!("{good}include_fields = {{ \"store.Order\" = [\"id\"] }}\n"),
            "names fields of \"store.Order\"",
        ),
        (
            &format!(
                "{good}exclude_fields = {{ \"cloudflare_images.CloudflareImage\" = [\"creatorr\"] }}\n"
            ),
            "names the field \"creatorr\" of \"cloudflare_images.CloudflareImage\", which there is not",
        ),
        (
            &format!("{good}when = \".a ==\"\n"),
            "has a `when` that is not understood at its end",
        ),
        (
            &format!("{good}transform = \"nothing\"\n"),
            "has a `transform` that names the filter \"nothing\", which there is not",
        ),
        (
            &format!("{good}headers = {{ webhook-id = \"SECRET\" }}\n"),
            "sets the header webhook-id, which is not its to set",
        ),
        (
            &format!("{good}headers = {{ X-Key = \"SECRET\\n\" }}\n"),
            "has a value for the header x-key that no header can carry",
        ),
        (
            &format!("{good}timeout_secs = 0\n"),
            "must be a whole number from 1 to 300",
        ),
        (
            &format!("{good}retry = {{ backoff_factor = 0.5 }}\n"),
            "must have a retry.backoff_factor from 1 to 100",
        ),
        (
            &format!("{good}signatures = [\"hmac\"]\n"),
            "has signatures that are not timestamped or standard",
        ),
        (&format!("{good}sekret = \"SECRET\"\n"), "sekret"),
    ] {
        refuses(&folder, settings, says);
    }
}

#[test]
fn a_wrong_authentication_ends_the_start_with_one_sentence() {
    let folder = TempDir::new().expect("a folder");
    let good = "name = \"crm\"\nurl = \"https://crm.example/SECRET\"\n";
    for (settings, says) in [
        (&format!("{good}auth = \"SECRET\"\n"), "must be"),
        (
            &format!(
                "{good}auth = {{ type = \"oauth2\", client_id = \"me\", \
                 token_url = \"https://auth.example\", client_secret = [\"SECRET\"] }}\n"
            ),
            "must be",
        ),
        (
            &format!("{good}\n[[relay.endpoints]]\n{good}"),
            "has the name of another",
        ),
    ] {
        refuses(&folder, settings, says);
    }
}

#[test]
fn a_wrong_word_is_not_repeated() {
    let folder = TempDir::new().expect("a folder");
    let good = "[[relay.endpoints]]\nname = \"crm\"\nurl = \"https://crm.example/\"\n";
    for (file, key, says) in [
        (
            "[relay]\non_failure = \"SECRET\"\n",
            "relay.on_failure",
            "must be log or callback",
        ),
        (
            &format!("{good}auth = {{ type = \"SECRET\" }}\n"),
            "relay.endpoints[0].auth",
            "must be `oauth2`",
        ),
        (
            &format!("{good}paused = \"SECRET\"\n"),
            "relay.endpoints[0].paused",
            "must be true or false",
        ),
        (
            "[relay]\nendpoints = [\"SECRET\"]\n",
            "relay.endpoints[0]",
            "must be a table with a name and a url",
        ),
    ] {
        let (code, said) = check(&folder, file, &[]);

        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(key) && said.contains(says), "{said}");
        assert!(!said.contains("SECRET"), "{said}");
    }
}

#[test]
fn an_endpoints_durations_can_have_units() {
    let folder = TempDir::new().expect("a folder");
    let with = |settings: &str| {
        let good = "[[relay.endpoints]]\nname = \"crm\"\nurl = \"https://crm.example/\"\n";
        check(&folder, &format!("{good}{settings}\n"), &[]).0
    };

    for settings in [
        "timeout_secs = \"5m\"",
        "retry = { delay_secs = \"1d\", max_delay_secs = \"7d\" }",
    ] {
        assert_eq!(with(settings), Some(0), "{settings}");
    }
    for settings in [
        "timeout_secs = \"6m\"",
        "retry = { delay_secs = \"25h\" }",
        "retry = { max_delay_secs = \"8d\" }",
    ] {
        assert_eq!(with(settings), Some(2), "{settings}");
    }
}

#[test]
fn the_example_is_right_whether_its_choices_are_taken_or_not() {
    let folder = TempDir::new().expect("a folder");
    let example = include_str!("../../config/relay.toml");
    // What stands behind a # and looks like a key or a table.
    let is_choice = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.starts_with(['"', '['])
                || rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
        })
    };
    let taken: Vec<&str> = example
        .lines()
        .map(|line| if is_choice(line) { &line[2..] } else { line })
        .filter(|line| !line.starts_with("Authorization"))
        .collect();
    for choice in ["type = \"oauth2\"", "name = \"stream\""] {
        assert!(taken.contains(&choice), "the choices are found");
    }
    let variables = [
        ("APP_WEBHOOK_SECRET", "SECRET"),
        ("APP_WEBHOOK_SECRET_BEFORE", "SECRET"),
        ("APP_TOKEN", "SECRET"),
        ("OAUTH_CLIENT_SECRET", "SECRET"),
        ("NATS_USER", "images"),
        ("NATS_PASSWORD", "SECRET"),
    ];

    for file in [example.to_owned(), taken.join("\n")] {
        let (code, shown) = check(&folder, &file, &variables);
        assert_eq!(code, Some(0), "{shown}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}

#[test]
fn private_addresses_are_refused_where_that_is_wanted() {
    let folder = TempDir::new().expect("a folder");
    let file = "[relay]\ndeny_private = true\n[[relay.endpoints]]\nname = \"crm\"\nurl = \"http://10.0.0.1/\"\n";

    let (code, said) = check(&folder, file, &[]);

    assert_eq!(code, Some(2));
    assert!(
        said.contains("has a url to an address that nothing is sent to"),
        "{said}"
    );
}

on_both_databases!(a_name_is_looked_at_when_it_is_looked_up,);

async fn a_name_is_looked_at_when_it_is_looked_up(database: Database) {
    let subscriber = Subscriber::start().await;
    let port = subscriber
        .url()
        .split(':')
        .next_back()
        .expect("a port")
        .to_owned();
    // On every machine this is 127.0.0.1 or ::1.
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
        app.deliver(r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );

    crate::support::wait::until_async("it is given up", async || {
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
            .contains("the host has only addresses that nothing is sent to"),
        "{error}"
    );
    assert_eq!(subscriber.received().len(), 0);
}

/// Two services on one database, and one subscriber.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_each_message_once() {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "events": ["updated"]}]).to_string();
    let variables = [("APP__RELAY__ENDPOINTS", endpoints.as_str())];
    let database = Database::postgres().await;
    let second = database.for_a_replica();
    let (first, second) = (
        App::start_with(database, &variables).await,
        App::start_with(second, &variables).await,
    );
    let ids: Vec<String> = (0..60).map(|number| format!("image-{number}")).collect();
    for id in &ids {
        first.database.register(id).await;
    }

    for (number, id) in ids.iter().enumerate() {
        let app = if number % 2 == 0 { &first } else { &second };
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        assert_eq!(app.deliver(body).await.outcome(), (200, "applied"));
    }

    subscriber.wait_for(ids.len()).await;
    crate::support::wait::until_async("all are settled", async || {
        first
            .database
            .count("SELECT count(*) FROM relay_deliveries WHERE status <> 'delivered'")
            .await
            == 0
    })
    .await;
    let mut told: Vec<String> = subscriber
        .received()
        .iter()
        .map(crate::support::subscriber::Received::event_id)
        .collect();
    assert_eq!(told.len(), ids.len());
    told.sort();
    told.dedup();
    assert_eq!(told.len(), ids.len(), "each once");
}
