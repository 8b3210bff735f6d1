//! Whoever is told can prove that it was us: with the code of the toolkit's documentation, and with any library of Standard Webhooks.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::signing::{standard, timestamped};
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};

const IMAGES: &str = "cloudflare_images.CloudflareImage";

/// What a subscriber gets whose endpoint has these settings.
async fn message(
    database: Database,
    secret: Option<&str>,
    settings: serde_json::Value,
) -> Received {
    let subscriber = Subscriber::start_with(secret).await;
    let mut endpoint = json!({"name": "app", "url": subscriber.url(), "include_models": [IMAGES]});
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    let endpoints = json!([endpoint]).to_string();
    let app = App::start_with(database, &[("APP__RELAY__ENDPOINTS", &endpoints)]).await;
    app.database.register("ünïcode").await;
    let body = json!({"id": "ünïcode", "uploaded": "2024-01-01T12:00:00Z", "filename": "日本.jpg"});
    assert_eq!(
        app.deliver(body.to_string()).await.outcome(),
        (200, "applied")
    );
    subscriber.wait_for(1).await.remove(0)
}

/// Runs a program that reads a request from a file, and returns what it prints.
fn ask(folder: &Path, program: &str, script: &str, received: &Received) -> String {
    let headers: serde_json::Map<String, serde_json::Value> = received
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").into()))
        .collect();
    let body = String::from_utf8(received.body.to_vec()).expect("text");
    let request = json!({"headers": headers, "body": body}).to_string();
    fs::write(folder.join("request.json"), request).expect("a file");
    fs::write(folder.join("script"), script).expect("a file");
    let output = Command::new(program)
        .arg("script")
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const PYTHON: &str = include_str!("../fixtures/verify_webhook.py");
const NODE: &str = include_str!("../fixtures/verify_webhook.js");

on_both_databases!(
    the_code_of_the_documentation_accepts_our_requests_and_no_others,
    several_secrets_sign_at_once_where_there_is_room,
    either_signature_can_be_turned_off,
    without_a_secret_nothing_is_signed,
    headers_of_the_settings_come_along,
);

async fn the_code_of_the_documentation_accepts_our_requests_and_no_others(database: Database) {
    let received = message(
        database,
        Some(RELAY_SECRET),
        json!({"secret": RELAY_SECRET}),
    )
    .await;
    let folder = TempDir::new().expect("a folder");
    // Frameworks look headers up without regard to case.
    let python = format!(
        r#"{PYTHON}
import json
class Headers(dict):
    def get(self, name): return dict.get(self, name.lower())
class Request: pass
told = json.load(open("request.json", encoding="utf-8"))
request = Request()
request.headers, request.body = Headers(told["headers"]), told["body"].encode()
print(verify_webhook(request, "{RELAY_SECRET}"), verify_webhook(request, "another secret"))
request.body += b" "
print(verify_webhook(request, "{RELAY_SECRET}"))
"#
    );
    let node = format!(
        r#"{NODE}
const request = JSON.parse(require("fs").readFileSync("request.json", "utf-8"));
console.log(verifyWebhook(request, "{RELAY_SECRET}"), verifyWebhook(request, "another secret"));
request.body += " ";
console.log(verifyWebhook(request, "{RELAY_SECRET}"));
"#
    );

    assert_eq!(
        ask(folder.path(), "python3", &python, &received),
        "True False\nFalse"
    );
    assert_eq!(
        ask(folder.path(), "node", &node, &received),
        "true false\nfalse"
    );
}

async fn several_secrets_sign_at_once_where_there_is_room(database: Database) {
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let received = message(
        database,
        Some(RELAY_SECRET),
        json!({"secrets": [RELAY_SECRET, other]}),
    )
    .await;

    let (id, timestamp) = (
        received.event_id(),
        received
            .header("webhook-timestamp")
            .parse()
            .expect("seconds"),
    );
    let signatures =
        [RELAY_SECRET, other].map(|secret| standard(secret, &id, timestamp, &received.body));
    assert_eq!(received.header("webhook-signature"), signatures.join(" "));
    assert_eq!(
        received.header("x-webhook-signature"),
        timestamped(RELAY_SECRET, timestamp, &received.body),
        "of the first alone"
    );
}

async fn either_signature_can_be_turned_off(database: Database) {
    let received = message(
        database,
        Some(RELAY_SECRET),
        json!({"secret": RELAY_SECRET, "signatures": ["standard"]}),
    )
    .await;

    assert!(received.headers.contains_key("webhook-signature"));
    assert!(!received.headers.contains_key("x-webhook-signature"));
}

async fn without_a_secret_nothing_is_signed(database: Database) {
    let received = message(database, None, json!({})).await;

    assert!(received.event_id().starts_with("evt_"));
}

async fn headers_of_the_settings_come_along(database: Database) {
    let received = message(
        database,
        None,
        json!({"headers": {"Authorization": "Bearer static_token_xyz", "X-API-Key": "k"}}),
    )
    .await;

    assert_eq!(
        (
            received.header("authorization"),
            received.header("x-api-key")
        ),
        ("Bearer static_token_xyz", "k")
    );
}
