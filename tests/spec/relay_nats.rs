//! Delivery to NATS `JetStream`: each event is stored once, and is sent again until the server
//! acknowledges it.

use std::fs;
use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{statuses, upload, uploaded};
use crate::support::app::{App, client, response_to};
use crate::support::certificates::Identity;
use crate::support::database::Database;
use crate::support::nats::{NatsServer, header};
use crate::support::nats_accounts::Account;
use crate::support::ports::free_port;
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

async fn wait_until_all_delivered(database: &Database) {
    wait::until_async("all deliveries are delivered", async || {
        statuses(database)
            .await
            .iter()
            .all(|status| status == "delivered")
    })
    .await;
}

/// Waits until an attempt has failed and returns its error.
async fn attempt_error(database: &Database) -> String {
    let errors = "SELECT error FROM relay_attempts WHERE error <> '' ORDER BY id DESC";
    wait::until_async("an attempt has failed", async || {
        !database.texts(errors).await.is_empty()
    })
    .await;
    database.texts(errors).await.remove(0)
}

on_both_databases!(
    publishes_and_settles_when_stored,
    builds_subject_from_payload,
    stores_each_event_once_across_restart,
    stores_unacknowledged_event_once,
    missing_stream_fails_attempts,
    replays_with_same_id,
);

async fn publishes_and_settles_when_stored(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(
        database,
        &nats.url(),
        json!({"headers": {"X-Tenant": "seven"}}),
    )
    .await;

    upload(&app, "image").await;

    wait_until_all_delivered(&app.database).await;
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
        "the stored payload is the bytes that were signed"
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

async fn builds_subject_from_payload(database: Database) {
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

    wait_until_all_delivered(&app.database).await;
    let message = nats.wait_for("images", 1).await.remove(0);
    assert_eq!(message.subject.as_str(), "images.uploaded.a_b_c_.somebody");
}

async fn stores_each_event_once_across_restart(database: Database) {
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
    let attempt_error = attempt_error(&app.database).await;
    nats.restart().await;

    wait_until_all_delivered(&app.database).await;
    let messages = nats.wait_for("cloudflare_images", 40).await;
    assert_eq!(messages.len(), 40, "each event is stored once");
    let lost = "the connection was lost before the server confirmed the message";
    assert!(
        attempt_error == lost || attempt_error.starts_with("cannot connect to the NATS server: "),
        "{attempt_error}"
    );
}

async fn stores_unacknowledged_event_once(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(database, &nats.url(), json!({"timeout_secs": 1})).await;
    upload(&app, "first").await;
    wait_until_all_delivered(&app.database).await;

    nats.signal("-STOP");
    upload(&app, "second").await;
    let attempt_error = attempt_error(&app.database).await;
    assert_eq!(statuses(&app.database).await[0], "delivered");
    assert_ne!(statuses(&app.database).await[1], "delivered");
    nats.signal("-CONT");

    wait_until_all_delivered(&app.database).await;
    assert_eq!(
        nats.wait_for("cloudflare_images", 2).await.len(),
        2,
        "the stream deduplicates by event id"
    );
    assert!(
        attempt_error.contains("within 1 s") || attempt_error.contains("timed out"),
        "{attempt_error}"
    );
}

async fn missing_stream_fails_attempts(database: Database) {
    let nats = NatsServer::start().await;
    let app = start(database, &nats.url(), json!({"subject": "images.{event}"})).await;

    upload(&app, "image").await;

    assert_eq!(
        attempt_error(&app.database).await,
        "no JetStream stream accepts the subject images.{event}"
    );
    nats.stream("images").await;
    wait_until_all_delivered(&app.database).await;
    assert_eq!(nats.wait_for("images", 1).await.len(), 1);
}

async fn replays_with_same_id(database: Database) {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let app = start(database, &nats.url(), json!({})).await;
    upload(&app, "image").await;
    wait_until_all_delivered(&app.database).await;

    let folder = TempDir::new().expect("a folder");
    let endpoints = endpoint(&nats.url(), &json!({}));
    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("APP__RELAY__ENDPOINTS", &endpoints),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let replayed = run(folder.path(), &["deliveries", "replay", "1"], &variables);

    assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
    // The command uses the real clock, so the replay is due in the future of the service's clock.
    app.clock.advance(Duration::from_hours(24 * 365 * 30));
    wait::until_async("the event was delivered again", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    let messages = nats.wait_for("cloudflare_images", 1).await;
    assert_eq!(messages.len(), 1, "the stream deduplicates by event id");
    let (exit_reason, _) = app.stop().await;
    assert_eq!(exit_reason, ExitReason::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticates_with_url_credentials() {
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

    wait_until_all_delivered(&right.database).await;
    assert_eq!(
        attempt_error(&wrong.database).await,
        "cannot connect to the NATS server: authorization violation: nats: authorization violation"
    );
    assert_eq!(
        attempt_error(&mute.database).await,
        "the NATS user may not publish to the subject cloudflare_images.{model.name}.{event}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_inbox_is_reported() {
    let users = r#"authorization { users = [
        { user: all, password: all },
        { user: app, password: app, permissions: {
            publish: ["cloudflare_images.>"], subscribe: ["_INBOX_images.>"] } },
    ] }"#;
    let nats = NatsServer::start_with(users, "all:all").await;
    nats.stream("cloudflare_images").await;
    let url = nats.url_as("app:app");
    let denied = start(Database::sqlite(), &url, json!({})).await;
    let prefix = json!({"nats": {"inbox_prefix": "_INBOX_images"}});
    let allowed = start(Database::sqlite(), &url, prefix).await;

    upload(&denied, "image").await;
    upload(&allowed, "image").await;

    assert_eq!(
        attempt_error(&denied.database).await,
        "the NATS user may not subscribe to its inbox, so the stream cannot confirm messages. Allow _INBOX.>, or set nats.inbox_prefix."
    );
    wait_until_all_delivered(&allowed.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticates_with_nkey() {
    let user = nkeys::KeyPair::new_user();
    let users = format!(
        "authorization {{ users = [{{ nkey: {} }}, {{ user: all, password: all }}] }}",
        user.public_key()
    );
    let nats = NatsServer::start_with(&users, "all:all").await;
    nats.stream("cloudflare_images").await;
    let seed = user.seed().expect("the pair has a seed");
    let nkey = json!({"nats": {"nkey_secret": seed}});
    let app = start(Database::sqlite(), &nats.url_as(""), nkey).await;

    upload(&app, "image").await;

    wait_until_all_delivered(&app.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_credentials_file_for_each_connection() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("images.creds");
    let (account, unknown) = (Account::new(), Account::new());
    let nats =
        NatsServer::start_with_credentials(&account.configuration, &account.credentials).await;
    nats.stream("cloudflare_images").await;
    fs::write(&file, &unknown.credentials).expect("a file");
    let credentials = json!({"nats": {"credentials_file": file.display().to_string()}});
    let app = start(Database::sqlite(), &nats.url(), credentials).await;

    upload(&app, "image").await;
    let refused = attempt_error(&app.database).await;
    fs::write(&file, &account.credentials).expect("a file");

    wait_until_all_delivered(&app.database).await;
    assert!(refused.contains("authorization violation"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_any_of_several_servers() {
    let nats = NatsServer::start().await;
    nats.stream("cloudflare_images").await;
    let urls = format!("nats://127.0.0.1:{}, {}", free_port(), nats.url());
    let app = start(
        Database::sqlite(),
        &urls,
        json!({"retry": {"max_retries": 0}}),
    )
    .await;

    for image in 0..5 {
        upload(&app, &format!("image-{image}")).await;
    }

    wait_until_all_delivered(&app.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticates_with_token() {
    let nats = NatsServer::start_with("authorization { token: t0ken }", "t0ken").await;
    nats.stream("cloudflare_images").await;
    let app = start(Database::sqlite(), &nats.url(), json!({})).await;

    upload(&app, "image").await;

    wait_until_all_delivered(&app.database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denies_names_with_private_addresses() {
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
        attempt_error(&app.database).await,
        "the host of the NATS server cannot be resolved: every address of the host is denied"
    );
    assert_eq!(nats.wait_for("cloudflare_images", 0).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verifies_server_name_over_tls() {
    let folder = TempDir::new().expect("a folder");
    let Identity { certificate, key } = Identity::new(folder.path(), "localhost");
    let nats = NatsServer::start_tls(&certificate, &key).await;
    nats.stream("cloudflare_images").await;
    let ca_file = certificate.display().to_string();

    for (host, accepted) in [("localhost", true), ("127.0.0.1", false)] {
        let database = Database::sqlite();
        let endpoints = endpoint(&nats.tls_url(host), &json!({}));
        let variables = [
            ("DATABASE_URL", database.url.as_str()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ("SSL_CERT_FILE", &ca_file),
        ];
        let service = Service::start(folder.path(), &variables);
        database.register("image").await;
        let request = client()
            .post(service.url())
            .header("cf-webhook-auth", SECRET);
        let response = response_to(request.body(uploaded("image"))).await;
        assert_eq!(response.outcome(), (200, "applied"));
        if accepted {
            wait_until_all_delivered(&database).await;
        } else {
            let attempt_error = attempt_error(&database).await;
            assert!(attempt_error.contains("certificate"), "{attempt_error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticates_with_client_certificate() {
    let folder = TempDir::new().expect("a folder");
    let (server, client) = (
        Identity::new(folder.path(), "localhost"),
        Identity::new(folder.path(), "images"),
    );
    let nats = NatsServer::start_mutual_tls(&server, &client).await;
    nats.stream("cloudflare_images").await;
    let ca_file = server.certificate.display().to_string();
    let identity = json!({"nats": {
        "client_cert_file": client.certificate.display().to_string(),
        "client_key_file": client.key.display().to_string(),
    }});

    for (settings, accepted) in [(identity, true), (json!({}), false)] {
        let endpoints = endpoint(&nats.tls_url("localhost"), &settings);
        let variables = [
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ("SSL_CERT_FILE", &ca_file),
        ];
        let output = run(folder.path(), &["endpoints", "test", "stream"], &variables);
        assert_eq!(output.status.success(), accepted, "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_and_previews_stream() {
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
            "error: stream did not accept the message: no JetStream stream accepts the subject images.{event}\n"
                .to_owned()
        )
    );
    nats.stream("images").await;
    let accepted = "stream accepted the message: the server acknowledged the message\n".to_owned();
    assert_eq!(stream("test"), (Some(0), accepted));
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
fn rejects_invalid_stream_settings() {
    let folder = TempDir::new().expect("a folder");
    let required = "name = \"s\"\nurl = \"nats://me:SECRET@nats.example\"\n";
    let anonymous = "name = \"s\"\nurl = \"nats://nats.example\"\n";
    for (settings, expected) in [
        (
            "name = \"s\"\nurl = \"nats://169.254.169.254\"\n",
            "url has a denied address",
        ),
        (
            "name = \"s\"\nurl = \"nats://[fd00:ec2::254]:4222\"\n",
            "url has a denied address",
        ),
        (
            "name = \"s\"\nurl = \"nats://nats.example/SECRET\"\n",
            "url must end after the host and port",
        ),
        (
            "name = \"s\"\nurl = \"ws://nats.example/\"\n",
            "url must be a URL such as https://app.example/webhooks/ or nats://nats.example:4222",
        ),
        (
            &format!("{required}subject = \"a..b\"\n"),
            "subject must be tokens separated by dots",
        ),
        (
            &format!(
                "{required}auth = {{ type = \"oauth2\", client_id = \"me\", client_secret = \"SECRET\", token_url = \"https://a.example\" }}\n"
            ),
            "auth is only for HTTP endpoints",
        ),
        (
            "name = \"s\"\nurl = \"https://app.example\"\nsubject = \"a\"\n",
            "subject and nats are only for NATS endpoints",
        ),
        (
            "name = \"s\"\nurl = \"https://app.example\"\nnats = {}\n",
            "subject and nats are only for NATS endpoints",
        ),
        (
            &format!("{anonymous}nats = {{ nkey_secret = \"SUSECRET\" }}\n"),
            "nats.nkey_secret must be the seed of a user",
        ),
        (
            &format!("{required}nats = {{ credentials_file = \"my.toml\" }}\n"),
            "the user in url, nats.credentials_file and nats.nkey_secret exclude each other",
        ),
        (
            &format!("{anonymous}nats = {{ credentials_file = \"my.toml\" }}\n"),
            "nats.credentials_file cannot be used: the file must have a user's JWT and seed, as nsc writes them",
        ),
        (
            "name = \"s\"\nurl = \"nats://a\"\nnats = { credentials_file = \"/nowhere\" }\n",
            "nats.credentials_file cannot be used: No such file or directory",
        ),
        (
            &format!("{required}nats = {{ client_cert_file = \"my.toml\" }}\n"),
            "nats.client_cert_file and nats.client_key_file belong together",
        ),
        (
            &format!(
                "{required}nats = {{ client_cert_file = \"my.toml\", client_key_file = \"my.toml\" }}\n"
            ),
            "nats.client_cert_file needs a URL with tls://",
        ),
        (
            "name = \"s\"\nurl = \"tls://a\"\nnats = { client_cert_file = \"my.toml\", client_key_file = \"my.toml\" }\n",
            "nats.client_cert_file has no certificate",
        ),
        (
            &format!("{required}nats = {{ inbox_prefix = \"a.>\" }}\n"),
            "nats.inbox_prefix must be tokens separated by dots",
        ),
        (
            "name = \"s\"\nurl = \"nats://SECRET@a,nats://other@b\"\n",
            "url must have the same user for every server",
        ),
        (
            "name = \"s\"\nurl = \"nats://SECRET@a,nats://169.254.169.254\"\n",
            "url has a denied address",
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
        let printed = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{settings}: {printed}");
        assert!(
            printed.contains(expected) && !printed.contains("SECRET"),
            "{settings}: {printed}"
        );
    }
}
