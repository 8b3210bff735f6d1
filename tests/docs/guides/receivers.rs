//! The receivers of a guide. Each gets messages of a real service, and some that it must refuse or
//! survive.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;

use super::programs::Program;
use crate::support::app::client;
use crate::support::ports::free_port;
use crate::support::program::Service;
use crate::support::signing::{SECRET, standard, timestamped};
use crate::support::subscriber::RELAY_SECRET;
use crate::support::wait;

const PAGE: &str = "docs/src/guides/receive-changes.md";

/// The id of an event that a test signs itself.
const EVENT_ID: &str = "evt_00000000000000000000000000000001";

/// The secret that replaces [`RELAY_SECRET`] during a rotation.
const NEXT_SECRET: &str = "whsec_dGhlIG5leHQgc2VjcmV0IG9mIGFuIGVuZHBvaW50";

/// A running receiver.
struct Receiver {
    /// Its files.
    _program: Program,
    process: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start(name: &str) -> Self {
        let program = Program::of_page(PAGE, name);
        let port = free_port();
        let errors = program.folder().join("errors");
        let mut process = program
            .command()
            .env("PORT", port.to_string())
            .env("APP_WEBHOOK_SECRET", RELAY_SECRET)
            .env("APP_WEBHOOK_SECRET_NEXT", NEXT_SECRET)
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; install it with: make prepare"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    lines.lock().expect("no panic").push(line);
                }
            }
        });
        wait::until(&format!("{name} listens"), || {
            let ended = process.try_wait().expect("a process");
            assert!(
                ended.is_none(),
                "{name} ended: {}",
                fs::read_to_string(&errors).unwrap_or_default()
            );
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            _program: program,
            process,
            port,
            lines,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhooks/", self.port)
    }

    /// Returns how many printed lines have all these words.
    fn lines_with(&self, words: &[&str]) -> usize {
        let lines = self.lines.lock().expect("no panic");
        let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
        lines.iter().filter(has_all).count()
    }

    /// Posts a message whose timestamp is shifted by these seconds. Returns the status of the
    /// response.
    async fn post(&self, signed: &str, sent: &str, seconds_from_now: i64) -> u16 {
        self.post_with_secret(RELAY_SECRET, signed, sent, seconds_from_now)
            .await
    }

    async fn post_with_secret(
        &self,
        secret: &str,
        signed: &str,
        sent: &str,
        seconds_from_now: i64,
    ) -> u16 {
        let timestamp = now() + seconds_from_now;
        let request = client()
            .post(self.url())
            .header("content-type", "application/json")
            .header("x-webhook-event-id", EVENT_ID)
            .header("x-webhook-timestamp", timestamp)
            .header(
                "x-webhook-signature",
                timestamped(secret, timestamp, signed.as_bytes()),
            )
            .header("webhook-id", EVENT_ID)
            .header("webhook-timestamp", timestamp)
            .header(
                "webhook-signature",
                standard(secret, EVENT_ID, timestamp, signed.as_bytes()),
            );
        let response = request.body(sent.to_owned()).send().await;
        response.expect("an answer").status().as_u16()
    }
}

/// Sends the start of a request, and disconnects within the body.
fn disconnect_within_body(receiver: &Receiver) {
    let mut client = TcpStream::connect(("127.0.0.1", receiver.port)).expect("it listens");
    let request = "POST /webhooks/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"i";
    client.write_all(request.as_bytes()).expect("a request");
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the receivers have the system's clock"
)]
fn now() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let seconds = since_1970.expect("it is later than 1970").as_secs();
    i64::try_from(seconds).expect("it is not that late")
}

/// Delivers a change of a real service, and checks that the receiver prints it.
async fn receives_changes(receiver: &Receiver) {
    let folder = TempDir::with_prefix("images-webhook-docs-").expect("a temporary folder");
    let endpoint = json!({
        "name": "app", "url": receiver.url(), "secret": RELAY_SECRET,
        "include_models": ["cloudflare_images.CloudflareImage"],
    });
    let endpoints = json!([endpoint]).to_string();
    let settings = [
        ("APP__RELAY__ENDPOINTS", endpoints.as_str()),
        ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let service = Service::start(folder.path(), &settings);
    let webhook = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(r#"{"id":"my-image","uploaded":"2024-01-01T12:00:00Z"}"#);

    let status = webhook.send().await.expect("an answer").status();

    assert_eq!(status, 200);
    wait::until("the receiver prints the event", || {
        receiver.lines_with(&["evt_", "created", "my-image"]) == 1
    });
}

/// Posts messages that the receiver must refuse, and one that it has seen.
async fn refuses_invalid_messages(receiver: &Receiver) {
    let message = json!({
        "id": EVENT_ID, "event": "updated", "timestamp": "2024-01-01T12:00:00.000000Z",
        "model": {"app": "cloudflare_images", "name": "CloudflareImage", "label": "cloudflare_images.CloudflareImage"},
        "object": {"id": "0", "cloudflare_id": "ünïcode", "status": "uploaded"}, "changes": {}, "user": null,
    });
    let message = message.to_string();
    let forged = message.replace("uploaded", "failed");

    assert_eq!(
        receiver.post(&message, &forged, 0).await,
        401,
        "another body"
    );
    assert_eq!(
        receiver.post(&message, &message, -400).await,
        401,
        "too old"
    );
    assert_eq!(
        receiver.post(&message, &message, 400).await,
        401,
        "from the future"
    );
    let unsigned = client().post(receiver.url()).body(message.clone());
    let unsigned = unsigned.send().await.expect("an answer");
    assert_eq!(unsigned.status(), 401, "unsigned");
    assert_eq!(receiver.post(&message, &message, 0).await, 204, "genuine");
    assert_eq!(
        receiver.post(&message, &message, 0).await,
        204,
        "a duplicate"
    );
    wait::until("the receiver prints the event", || {
        receiver.lines_with(&[EVENT_ID]) > 0
    });
    assert_eq!(receiver.lines_with(&[EVENT_ID, "updated", "ünïcode"]), 1);
}

/// Posts an alert. It has no `object`.
async fn accepts_alerts(receiver: &Receiver) {
    let id = EVENT_ID.replace('1', "2");
    let alert = json!({
        "id": id, "event": "endpoint_failing", "timestamp": "2024-01-01T12:00:00.000000Z",
        "endpoint": "app", "consecutive_failures": 5, "error": "answered 500 Internal Server Error",
    });
    let alert = alert.to_string();

    let status = receiver.post(&alert, &alert, 0).await;

    assert_eq!(status, 204);
    wait::until("the receiver prints the alert", || {
        receiver.lines_with(&[&id, "endpoint_failing"]) == 1
    });
}

/// Posts a message that is signed with the next secret.
async fn accepts_next_secret(receiver: &Receiver) {
    let message = json!({"id": EVENT_ID.replace('1', "3"), "event": "test"}).to_string();

    let status = receiver
        .post_with_secret(NEXT_SECRET, &message, &message, 0)
        .await;

    assert_eq!(status, 204);
}

/// Sends everything that a receiver must handle. It must run until the last message.
async fn handles_requests(receiver: &mut Receiver) {
    disconnect_within_body(receiver);
    refuses_invalid_messages(receiver).await;
    accepts_alerts(receiver).await;
    accepts_next_secret(receiver).await;
    receives_changes(receiver).await;

    let ended = receiver.process.try_wait().expect("a process");
    assert!(ended.is_none(), "the receiver ended: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_receives_changes() {
    let mut receiver = Receiver::start("receive-python");

    handles_requests(&mut receiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_receives_changes() {
    let mut receiver = Receiver::start("receive-node");

    handles_requests(&mut receiver).await;
}
