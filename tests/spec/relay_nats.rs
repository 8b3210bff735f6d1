//! Events go into a stream of NATS `JetStream`, each once, and what the server has not said to have stored is sent again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{states, upload, uploaded};
use crate::support::app::{App, answer, client};
use crate::support::database::Database;
use crate::support::nats::{NatsServer, header};
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::RELAY_SECRET;
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

fn endpoint(url: &str, settings: &Value) -> String {
    let mut endpoint = json!({
        "name": "stream", "url": url, "secret": RELAY_SECRET, "include_models": [IMAGES],
        "retry": {"max_retries": 1000, "delay_secs": 0, "max_delay_secs": 0},
    });
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    json!([endpoint]).to_string()
}

async fn start(database: Database, url: &str, settings: Value) -> App {
    let endpoints = endpoint(url, &settings);
    App::start_with(database, &[("APP__RELAY__ENDPOINTS", &endpoints)]).await
}

async fn wait_until_all_are_delivered(database: &Database) {
    wait::until_async("the deliveries are settled", async || {
        states(database)
            .await
            .iter()
            .all(|state| state == "delivered")
    })
    .await;
}

/// Waits until a try has failed, and returns what was written of it.
async fn error(database: &Database) -> String {
    let errors = "SELECT error FROM relay_attempts WHERE error <> '' ORDER BY id DESC";
    wait::until_async("a try fails", async || {
        !database.texts(errors).await.is_empty()
    })
    .await;
    database.texts(errors).await.remove(0)
}

on_both_databases!(
    an_event_is_published_under_its_subject_and_settled_when_it_is_stored,
    a_subject_is_made_of_what_the_endpoint_gets,
    a_server_that_is_killed_and_started_again_gets_every_event_once,
    what_the_server_does_not_acknowledge_is_published_again_and_stored_once,
    without_a_stream_nothing_is_taken_for_delivered,
    a_replay_comes_under_the_same_id,
);

async fn an_event_is_published_under_its_subject_and_settled_when_it_is_stored(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(
        database,
        &nats.url(),
        json!({"headers": {"X-Tenant": "seven"}}),
    )
    .await;

    upload(&app, "image").await;

    wait_until_all_are_delivered(&app.database).await;
    let message = nats.wait_for("cloudflare_images", 1).await.remove(0);
    assert_eq!(
        message.subject.as_str(),
        "cloudflare_images.CloudflareImage.updated"
    );
    assert_eq!(header(&message, "x-tenant"), "seven");
    let event = app
        .database
        .texts("SELECT id FROM relay_events")
        .await
        .remove(0);
    assert_eq!(header(&message, "Nats-Msg-Id"), event);
    let payload = app.database.texts("SELECT payload FROM relay_events").await;
    assert_eq!(
        payload,
        [String::from_utf8(message.payload.to_vec()).expect("text")],
        "the bytes that were signed"
    );
    let delivery = app.database.deliveries().await.remove(0);
    assert_eq!(
        (
            &delivery["attempts"],
            &delivery["status_code"],
            &delivery["error"]
        ),
        (&json!(1), &Value::Null, &json!(""))
    );
}

async fn a_subject_is_made_of_what_the_endpoint_gets(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("images").await;
    let app = start(
        database,
        &nats.url(),
        json!({
            "subject": "images.{object.status}.{object.cloudflare_id}.{object.creator}",
            "redact_fields": {IMAGES: {"creator": "somebody"}},
        }),
    )
    .await;

    upload(&app, "a.b c>").await;

    wait_until_all_are_delivered(&app.database).await;
    let message = nats.wait_for("images", 1).await.remove(0);
    assert_eq!(message.subject.as_str(), "images.uploaded.a_b_c_.somebody");
}

async fn a_server_that_is_killed_and_started_again_gets_every_event_once(database: Database) {
    let mut nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(database, &nats.url(), json!({})).await;
    for image in 0..20 {
        upload(&app, &format!("before-{image}")).await;
    }
    nats.wait_for("cloudflare_images", 1).await;

    nats.kill();
    for image in 0..20 {
        upload(&app, &format!("meanwhile-{image}")).await;
    }
    let error = error(&app.database).await;
    nats.restart().await;

    wait_until_all_are_delivered(&app.database).await;
    let messages = nats.wait_for("cloudflare_images", 40).await;
    assert_eq!(messages.len(), 40, "each once");
    let lost = "the connection was lost before the server said that the message is stored";
    assert!(
        error == lost || error.starts_with("the NATS server cannot be connected to: "),
        "{error}"
    );
}

async fn what_the_server_does_not_acknowledge_is_published_again_and_stored_once(
    database: Database,
) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(database, &nats.url(), json!({"timeout_secs": 1})).await;
    upload(&app, "first").await;
    wait_until_all_are_delivered(&app.database).await;

    nats.signal("-STOP");
    upload(&app, "second").await;
    let error = error(&app.database).await;
    assert_eq!(states(&app.database).await[0], "delivered");
    assert_ne!(states(&app.database).await[1], "delivered");
    nats.signal("-CONT");

    wait_until_all_are_delivered(&app.database).await;
    assert_eq!(
        nats.wait_for("cloudflare_images", 2).await.len(),
        2,
        "by its id the stream knows what it has"
    );
    assert!(
        error.contains("within 1 s") || error.contains("timed out"),
        "{error}"
    );
}

async fn without_a_stream_nothing_is_taken_for_delivered(database: Database) {
    let nats = NatsServer::start().await;
    let app = start(database, &nats.url(), json!({"subject": "images.{event}"})).await;

    upload(&app, "image").await;

    assert_eq!(
        error(&app.database).await,
        "no JetStream stream takes the subject images.{event}"
    );
    nats.stream("images").await;
    wait_until_all_are_delivered(&app.database).await;
    assert_eq!(nats.wait_for("images", 1).await.len(), 1);
}

async fn a_replay_comes_under_the_same_id(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(database, &nats.url(), json!({})).await;
    upload(&app, "image").await;
    wait_until_all_are_delivered(&app.database).await;

    let folder = TempDir::new().expect("a folder");
    let endpoints = endpoint(&nats.url(), &json!({}));
    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("APP__RELAY__ENDPOINTS", &endpoints),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let replayed = run(folder.path(), &["deliveries", "replay", "1"], &variables);

    assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
    // The program that replays it lives today.
    app.clock.advance(Duration::from_hours(24 * 365 * 30));
    wait::until_async("it was delivered again", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    let messages = nats.wait_for("cloudflare_images", 1).await;
    assert_eq!(messages.len(), 1, "by its id the stream knows what it has");
    let (ending, _) = app.stop().await;
    assert_eq!(ending, ExitReason::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_says_who_we_are() {
    let users = r#"authorization { users = [
        { user: all, password: "p@ss" },
        { user: mute, password: mute, permissions: { publish: ["_INBOX.>"] } },
    ] }"#;
    let nats = NatsServer::start_with(users, "all:p%40ss").await;
    nats.stream("cloudflare_images").await;
    let right = start(Database::sqlite(), &nats.url(), json!({})).await;
    let wrong = start(Database::sqlite(), &nats.url_as("all:SECRET"), json!({})).await;
    let mute = json!({"timeout_secs": 1});
    let mute = start(Database::sqlite(), &nats.url_as("mute:mute"), mute).await;

    for app in [&right, &wrong, &mute] {
        upload(app, "image").await;
    }

    wait_until_all_are_delivered(&right.database).await;
    assert_eq!(
        error(&wrong.database).await,
        "the NATS server cannot be connected to: authorization violation: nats: authorization violation"
    );
    let mute = error(&mute.database).await;
    assert!(
        mute.contains("within 1 s") || mute.contains("timed out"),
        "{mute}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_before_the_at_will_do() {
    let nats = NatsServer::start_with("authorization { token: t0ken }", "t0ken").await;
    nats.stream("cloudflare_images").await;
    let app = start(Database::sqlite(), &nats.url(), json!({})).await;

    upload(&app, "image").await;

    wait_until_all_are_delivered(&app.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_name_is_looked_at_when_it_is_looked_up() {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let url = nats.url().replace("127.0.0.1", "localhost");
    let endpoints = endpoint(&url, &json!({}));
    let variables = [
        ("APP__RELAY__ENDPOINTS", endpoints.as_str()),
        ("APP__RELAY__DENY_PRIVATE", "true"),
    ];
    let app = App::start_with(Database::sqlite(), &variables).await;

    upload(&app, "image").await;

    assert_eq!(
        error(&app.database).await,
        "the NATS server cannot be found: the host has only addresses that nothing is sent to"
    );
    assert_eq!(nats.wait_for("cloudflare_images", 0).await.len(), 0);
}

/// A certificate of `localhost` that answers for itself, and its key.
fn certificate(folder: &TempDir) -> (PathBuf, PathBuf) {
    let (certificate, key) = (
        folder.path().join("server.pem"),
        folder.path().join("key.pem"),
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    (certificate, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_server_proves_its_name() {
    let folder = TempDir::new().expect("a folder");
    let (certificate, key) = certificate(&folder);
    let nats = NatsServer::start_tls(&certificate, &key).await;
    nats.stream("cloudflare_images").await;
    let authority = certificate.display().to_string();

    for (host, taken) in [("localhost", true), ("127.0.0.1", false)] {
        let database = Database::sqlite();
        let endpoints = endpoint(&nats.tls_url(host), &json!({}));
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ("SSL_CERT_FILE", &authority),
        ];
        let service = Service::start(folder.path(), &variables);
        database.register("image").await;
        let request = client()
            .post(service.url())
            .header("cf-webhook-auth", SECRET);
        let outcome = answer(request.body(uploaded("image"))).await;
        assert_eq!(outcome.outcome(), (200, "applied"));
        if taken {
            wait_until_all_are_delivered(&database).await;
        } else {
            let error = error(&database).await;
            assert!(error.contains("certificate"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_tried_out_by_hand() {
    let nats = NatsServer::start().await;
    let folder = TempDir::new().expect("a folder");
    let endpoints = endpoint(&nats.url(), &json!({"subject": "images.{event}"}));
    let endpoints = [
        ("APP__RELAY__ENDPOINTS", endpoints.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let stream = |verb| {
        let output = run(folder.path(), &["endpoints", verb, "stream"], &endpoints);
        (output.status.code(), stdout(&output) + &stderr(&output))
    };

    assert_eq!(
        stream("test"),
        (
            Some(1),
            "error: stream did not take it: no JetStream stream takes the subject images.{event}\n"
                .to_owned()
        )
    );
    nats.stream("images").await;
    let taken = "stream took it: it acknowledged the message\n".to_owned();
    assert_eq!(stream("test"), (Some(0), taken));
    assert_eq!(
        nats.wait_for("images", 1).await[0].subject.as_str(),
        "images.test"
    );
    let (code, shown) = stream("preview");
    assert_eq!(code, Some(0));
    for line in [
        "PUB images.test",
        "Nats-Msg-Id: evt_",
        "webhook-signature: v1,",
    ] {
        assert!(
            shown.lines().any(|one| one.starts_with(line)),
            "{line}: {shown}"
        );
    }
}

#[test]
fn what_no_stream_can_be_reached_by_is_refused_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let good = "name = \"s\"\nurl = \"nats://me:SECRET@nats.example\"\n";
    for (settings, says) in [
        (
            "name = \"s\"\nurl = \"nats://169.254.169.254\"\n",
            "has a url to an address that nothing is sent to",
        ),
        (
            "name = \"s\"\nurl = \"nats://[fd00:ec2::254]:4222\"\n",
            "has a url to an address that nothing is sent to",
        ),
        (
            "name = \"s\"\nurl = \"nats://nats.example/SECRET\"\n",
            "must have a url of NATS that ends with its port",
        ),
        (
            "name = \"s\"\nurl = \"ws://nats.example/\"\n",
            "must have a url such as https://app.example/webhooks/ or nats://nats.example:4222",
        ),
        (
            &format!("{good}subject = \"a..b\"\n"),
            "must have a subject such as",
        ),
        (
            &format!(
                "{good}auth = {{ type = \"oauth2\", client_id = \"me\", client_secret = \"SECRET\", token_url = \"https://a.example\" }}\n"
            ),
            "has auth, which is HTTP's",
        ),
        (
            "name = \"s\"\nurl = \"https://app.example\"\nsubject = \"a\"\n",
            "has a subject, which only a url of NATS takes",
        ),
    ] {
        fs::write(
            folder.path().join("my.toml"),
            format!("[[relay.endpoints]]\n{settings}"),
        )
        .expect("a file");
        let output = run(
            folder.path(),
            &["--config", "my.toml", "check-config"],
            &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)],
        );
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{settings}: {said}");
        assert!(
            said.contains(says) && !said.contains("SECRET"),
            "{settings}: {said}"
        );
    }
}
