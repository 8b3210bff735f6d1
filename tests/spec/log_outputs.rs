//! A log that cannot be written, long texts from clients, and a flood of refused requests. None of them stops the service.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{client, metric, response_to};
use crate::support::database::Database;
use crate::support::ports::free_port;
use crate::support::program::{LOG_FILE, LogOutput, Service, program, stderr};
use crate::support::signing::SECRET;
use crate::support::wait;

/// The number of webhooks whose lines do not fit in a pipe of 64 KiB.
const WEBHOOKS: usize = 300;

const DROPPED_LINES: &str = "log_lines_dropped_total";

on_both_databases!(broken_outputs_stop_nothing);

async fn broken_outputs_stop_nothing(database: Database) {
    for output in LogOutput::BROKEN {
        let folder = TempDir::new().expect("a folder");
        let variables = [("DATABASE_URL", database.url.as_str())];
        let mut service = start(output, &folder, &variables);

        for _ in 0..WEBHOOKS {
            assert_eq!(send(&service).await, StatusCode::OK, "{output:?}");
        }
        let ready = response_to(client().get(service.ops_url("/readyz"))).await;
        let dropped = metric(&service.ops_url("/metrics"), DROPPED_LINES).await;
        service.signal("-TERM");
        let status = service.wait();

        assert_eq!(ready.status, StatusCode::OK, "{output:?}");
        // The lines for the unread pipe wait in the queue.
        let is_dropping = output != LogOutput::UnreadPipe;
        assert_eq!(dropped > 0, is_dropping, "{output:?}: {dropped}");
        assert_eq!(status.code(), Some(0), "{output:?}");
    }
}

#[tokio::test]
async fn reports_dropped_lines_when_output_works() {
    let folder = TempDir::new().expect("a folder");
    let mut service = start(LogOutput::File, &folder, &[]);
    let metrics = service.ops_url("/metrics");
    let read_log = || std::fs::read_to_string(folder.path().join(LOG_FILE)).expect("the log");
    let refuse_webhook = async || response_to(client().post(service.url()).body("{}")).await;

    // The file cannot grow, as on a full disk.
    service.set_limit("--fsize=1:");
    wait::until_async("lines are dropped", async || {
        refuse_webhook().await;
        metric(&metrics, DROPPED_LINES).await > 0
    })
    .await;
    service.set_limit("--fsize=unlimited:");
    wait::until_async("the dropped lines are reported", async || {
        refuse_webhook().await;
        read_log().contains("log lines were dropped")
    })
    .await;

    service.signal("-TERM");
    assert_eq!(service.wait().code(), Some(0));
    let log = read_log();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let reported: Vec<_> = lines
        .filter_map(|line: Value| line["lines"].as_i64())
        .collect();
    assert!(matches!(reported[..], [lines] if lines > 0), "{log}");
}

#[test]
fn start_failure_ends_despite_blocked_log() {
    let folder = TempDir::new().expect("a folder");
    let in_use = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = in_use.local_addr().expect("an address").to_string();
    let (_unread, mut pipe) = std::io::pipe().expect("a pipe");
    fill(&mut pipe);

    let status = program(folder.path())
        .env("APP__SERVER__LISTEN", address)
        .stderr(pipe)
        .status()
        .expect("the program runs");

    assert_eq!(status.code(), Some(1));
}

/// Fills a pipe until a write would block.
fn fill(pipe: &mut std::io::PipeWriter) {
    let full = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=64", "oflag=nonblock"])
        .stdin(Stdio::null())
        .stdout(pipe.try_clone().expect("a descriptor"))
        .stderr(Stdio::null())
        .status()
        .expect("dd runs");
    assert!(!full.success(), "the pipe is full");
}

#[test]
fn full_standard_output_is_an_error() {
    let folder = TempDir::new().expect("a folder");
    let full = File::options().write(true).open("/dev/full");

    let output = program(folder.path())
        .arg("check-config")
        .stdout(full.expect("the device exists"))
        .stderr(Stdio::piped())
        .output()
        .expect("the program runs");

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output).trim_end(),
        "error: cannot write to standard output: No space left on device (os error 28)"
    );
}

#[test]
fn closed_standard_output_is_no_error() {
    let folder = TempDir::new().expect("a folder");
    let (_, closed) = std::io::pipe().expect("a pipe");

    let output = program(folder.path())
        .arg("check-config")
        .stdout(closed)
        .stderr(Stdio::piped())
        .output()
        .expect("the program runs");

    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
}

#[tokio::test]
async fn cuts_long_methods_and_paths() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[]);
    let long = "X".repeat(5000);

    let mut stream = TcpStream::connect(("127.0.0.1", service.port)).expect("it listens");
    write!(
        stream,
        "{long} /%C3%A4/{long} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .expect("the request is sent");
    stream.read_to_end(&mut Vec::new()).expect("a response");

    service.signal("-TERM");
    service.wait();
    let lines = service.log();
    let line = lines
        .iter()
        .find(|line| line.contains("XXX"))
        .expect("a line");
    assert_eq!(line.matches("/%C3%A4/").count(), 1, "{line}");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["path"], format!("/%C3%A4/{}…", "X".repeat(192)));
    assert_eq!(line["method"], format!("{}…", "X".repeat(200)));
}

#[tokio::test]
async fn limits_lines_of_refused_requests() {
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__LOG__REFUSED_LINES_PER_SECOND", "1"),
    ];
    let mut service = Service::start(folder.path(), &variables);

    let refused = 200;
    for _ in 0..refused {
        let answer = response_to(client().post(service.url()).body("{}")).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }

    service.signal("-TERM");
    service.wait();
    let lines: Vec<Value> = service
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["status"] == 401)
        .collect();
    let omitted = lines.iter().filter_map(|line| line["omitted"].as_u64());
    let omitted = usize::try_from(omitted.sum::<u64>()).expect("a number");
    let written = lines.iter().filter(|line| line["path"].is_string()).count();
    assert!(omitted > 0, "{lines:?}");
    assert_eq!(written + omitted, refused, "every request is counted");
}

fn start(output: LogOutput, folder: &TempDir, variables: &[(&str, &str)]) -> Service {
    let mut variables = variables.to_vec();
    variables.push(("CLOUDFLARE_WEBHOOK_SECRET", SECRET));
    Service::start_logging_to(
        output,
        folder.path(),
        &variables,
        (free_port(), free_port()),
    )
}

/// Sends a webhook and returns the status of the response.
async fn send(service: &Service) -> StatusCode {
    let webhook = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET);
    response_to(webhook.body(r#"{"text": "test message"}"#))
        .await
        .status
}
