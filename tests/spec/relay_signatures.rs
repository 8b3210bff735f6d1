//! Signatures of events. The documented code and any Standard Webhooks library can verify them.

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

/// Returns the event that a subscriber receives with these endpoint settings.
async fn receive(
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
        app.post_webhook(body.to_string()).await.outcome(),
        (200, "applied")
    );
    subscriber.wait_for(1).await.remove(0)
}

/// Runs a program that reads a request from a file, and returns its output.
fn run_script(folder: &Path, program: &str, script: &str, received: &Received) -> String {
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
    documented_code_verifies_signatures,
    signs_with_every_secret,
    signatures_can_be_disabled,
    signs_nothing_without_secret,
    sends_configured_headers,
);

async fn documented_code_verifies_signatures(database: Database) {
    let received = receive(
        database,
        Some(RELAY_SECRET),
        json!({"secret": RELAY_SECRET}),
    )
    .await;
    let folder = TempDir::new().expect("a folder");
    // Frameworks ignore the case of header names.
    let python = format!(
        r#"{PYTHON}
import json
class Headers(dict):
    def get(self, name): return dict.get(self, name.lower())
class Request: pass
sent = json.load(open("request.json", encoding="utf-8"))
request = Request()
request.headers, request.body = Headers(sent["headers"]), sent["body"].encode()
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
        run_script(folder.path(), "python3", &python, &received),
        "True False\nFalse"
    );
    assert_eq!(
        run_script(folder.path(), "node", &node, &received),
        "true false\nfalse"
    );
}

async fn signs_with_every_secret(database: Database) {
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let received = receive(
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
        "only the first secret signs this header"
    );
}

async fn signatures_can_be_disabled(database: Database) {
    let received = receive(
        database,
        Some(RELAY_SECRET),
        json!({"secret": RELAY_SECRET, "signatures": ["standard"]}),
    )
    .await;

    assert!(received.headers.contains_key("webhook-signature"));
    assert!(!received.headers.contains_key("x-webhook-signature"));
}

async fn signs_nothing_without_secret(database: Database) {
    let received = receive(database, None, json!({})).await;

    assert!(received.event_id().starts_with("evt_"));
}

async fn sends_configured_headers(database: Database) {
    let received = receive(
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
