//! Limits of requests: large bodies, slow clients and malformed HTTP.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::on_both_databases;
use crate::support::app::{App, PATH, response_to};
use crate::support::database::Database;
use crate::support::signing::SECRET;
use crate::support::wait;

const LIMIT: usize = 2_000;

async fn app(database: Database) -> App {
    App::start_with(
        database,
        &[
            ("APP__SERVER__BODY_LIMIT_BYTES", "2000"),
            ("APP__SERVER__READ_TIMEOUT_SECS", "1"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "1"),
        ],
    )
    .await
}

/// HTTP/2 (RFC 9113): an empty SETTINGS frame, the type of a PING frame and its ACK flag.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: u8 = 6;
const ACK: u8 = 1;

/// Returns a test message of this length.
fn test_message(length: usize) -> String {
    format!(
        r#"{{"text":"test message{}"}}"#,
        "x".repeat(length - r#"{"text":"test message"}"#.len())
    )
}

fn head(extra_headers: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncf-webhook-auth: {SECRET}\r\n{extra_headers}\r\n"
    )
}

fn chunked(body: &str, chunk: usize) -> String {
    let chunks = body
        .as_bytes()
        .chunks(chunk)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)));
    format!("{}0\r\n\r\n", chunks.collect::<String>())
}

/// Waits for a read. Panics if the service neither responds nor closes the connection.
async fn with_timeout(
    read: impl Future<Output = std::io::Result<usize>>,
) -> std::io::Result<usize> {
    tokio::time::timeout(wait::WAIT_TIMEOUT, read)
        .await
        .expect("the service responds or closes the connection")
}

/// Sends bytes and reads the response until the connection closes.
async fn exchange(app: &App, request: &str) -> String {
    let mut stream = TcpStream::connect(app.address)
        .await
        .expect("the service listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the bytes are sent");
    let mut answer = String::new();
    with_timeout(stream.read_to_string(&mut answer))
        .await
        .expect("the service responds");
    answer
}

on_both_databases!(
    accepts_body_at_limit_and_rejects_above,
    limits_chunked_bodies,
    sends_100_continue,
    rejects_large_body_before_100_continue,
    slow_body_gets_408,
    closes_connection_without_complete_head,
    survives_disconnecting_clients,
    unread_responses_do_not_block_other_clients,
    closes_idle_http2_despite_pings,
    keep_alive_outlasts_read_timeout,
    serves_http2_in_cleartext,
    rejects_malformed_http,
    many_large_bodies_get_503,
);

async fn accepts_body_at_limit_and_rejects_above(database: Database) {
    let app = app(database).await;

    assert_eq!(
        app.post_webhook(test_message(LIMIT - 1)).await.outcome(),
        (200, "test")
    );
    assert_eq!(
        app.post_webhook(test_message(LIMIT)).await.outcome(),
        (200, "test")
    );
    assert_eq!(
        app.post_webhook(test_message(LIMIT + 1)).await.outcome(),
        (413, "body-too-large")
    );
    assert_eq!(
        app.post_webhook(test_message(3 * LIMIT)).await.outcome(),
        (413, "body-too-large")
    );
}

async fn limits_chunked_bodies(database: Database) {
    let app = app(database).await;
    for (length, status) in [
        (LIMIT - 1, "200 OK"),
        (LIMIT, "200 OK"),
        (LIMIT + 1, "413 Payload Too Large"),
        (3 * LIMIT, "413 Payload Too Large"),
    ] {
        for chunk in [1, 700, 10_000] {
            let request =
                head("transfer-encoding: chunked\r\n") + &chunked(&test_message(length), chunk);

            let answer = exchange(&app, &request).await;

            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{length} in chunks of {chunk}: {answer}"
            );
        }
    }
}

async fn sends_100_continue(database: Database) {
    let app = app(database).await;
    let body = test_message(100);
    let mut stream = TcpStream::connect(app.address)
        .await
        .expect("the service listens");

    stream
        .write_all(head("expect: 100-continue\r\ncontent-length: 100\r\n").as_bytes())
        .await
        .expect("the bytes are sent");
    let mut first = [0; 25];
    with_timeout(stream.read_exact(&mut first))
        .await
        .expect("the service responds before the body is sent");
    stream
        .write_all(body.as_bytes())
        .await
        .expect("the bytes are sent");
    let mut remaining = String::new();
    with_timeout(stream.read_to_string(&mut remaining))
        .await
        .expect("the service responds");

    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(remaining.starts_with("HTTP/1.1 200 OK\r\n"), "{remaining}");
}

async fn rejects_large_body_before_100_continue(database: Database) {
    let app = app(database).await;

    let answer = exchange(
        &app,
        &head("expect: 100-continue\r\ncontent-length: 2001\r\n"),
    )
    .await;

    assert!(
        answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
        "{answer}"
    );
}

async fn slow_body_gets_408(database: Database) {
    let app = app(database).await;
    let mut stream = TcpStream::connect(app.address)
        .await
        .expect("the service listens");
    stream
        .write_all(head("content-length: 100\r\n").as_bytes())
        .await
        .expect("the bytes are sent");
    let (mut reader, mut writer) = stream.into_split();
    let slow_writer = tokio::spawn(async move {
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        loop {
            every_second.tick().await;
            if writer.write_all(b"x").await.is_err() {
                return;
            }
        }
    });

    let mut answer = String::new();
    with_timeout(reader.read_to_string(&mut answer))
        .await
        .expect("the service responds");

    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("urn:cloudflare-images-webhook:problem:read-timeout"),
        "{answer}"
    );
    slow_writer.abort();
}

async fn closes_connection_without_complete_head(database: Database) {
    let app = app(database).await;
    for sent in ["", "P", "PRI * HTTP/2.0", "POST / HTTP/1.1\r\nhost: local"] {
        let answer = exchange(&app, sent).await;

        assert_eq!(answer, "", "{sent:?}");
    }
    assert_eq!(
        app.post_webhook(test_message(100)).await.outcome(),
        (200, "test"),
        "the service still serves requests"
    );
}

async fn survives_disconnecting_clients(database: Database) {
    let app = app(database).await;
    app.database.register("image").await;
    let body = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;
    for sent in [
        head("content-length: 100\r\n"),
        head("content-length: 48\r\n") + &body[..20],
        head("transfer-encoding: chunked\r\n") + "5\r\nab",
    ] {
        let mut stream = TcpStream::connect(app.address)
            .await
            .expect("the service listens");
        stream
            .write_all(sent.as_bytes())
            .await
            .expect("the bytes are sent");
    }

    assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
}

async fn unread_responses_do_not_block_other_clients(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__MAX_CONNECTIONS", "2"),
            ("APP__SERVER__READ_TIMEOUT_SECS", "1"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "1"),
        ],
    )
    .await;
    let unread: Vec<_> = (0..2)
        .map(|_| {
            let mut stream =
                std::net::TcpStream::connect(app.address).expect("the service listens");
            stream
                .set_nonblocking(true)
                .expect("the stream is non-blocking");
            // Writes until the service stops reading because its responses are not read.
            let mut idle_tries = 0;
            while idle_tries < 1_000 {
                if std::io::Write::write(
                    &mut stream,
                    &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100),
                )
                .is_ok()
                {
                    idle_tries = 0;
                } else {
                    idle_tries += 1;
                    std::thread::yield_now();
                }
            }
            stream
        })
        .collect();

    assert_eq!(
        app.post_webhook(test_message(100)).await.outcome(),
        (200, "test")
    );
    drop(unread);
}

async fn closes_idle_http2_despite_pings(database: Database) {
    let app = app(database).await;
    let mut stream = TcpStream::connect(app.address)
        .await
        .expect("the service listens");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("the bytes are sent");
    stream
        .write_all(&SETTINGS)
        .await
        .expect("the bytes are sent");

    // RFC 9113, section 4.1: three bytes of length, the type, the flags, four bytes of stream id.
    let answer_pings = async {
        let (mut head, mut frames) = ([0; 9], 0);
        while stream.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream
                .read_exact(&mut payload)
                .await
                .expect("the frame is complete");
            frames += 1;
            if head[3] == PING && head[4] == 0 {
                head[4] = ACK;
                // If the service has closed the connection, the next read fails.
                let _closed = stream.write_all(&[&head[..], &payload].concat()).await;
            }
        }
        frames
    };
    let frames = tokio::time::timeout(wait::WAIT_TIMEOUT, answer_pings)
        .await
        .expect("the service closes the connection");

    assert!(frames > 0, "no HTTP/2 frame was received");
}

async fn keep_alive_outlasts_read_timeout(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__READ_TIMEOUT_SECS", "1"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "600"),
        ],
    )
    .await;
    let mut stream = TcpStream::connect(app.address)
        .await
        .expect("the service listens");
    let request = |extra_headers: &str| {
        format!("GET {PATH} HTTP/1.1\r\nhost: localhost\r\n{extra_headers}\r\n")
    };
    let mut first = [0; 24];

    stream
        .write_all(request("").as_bytes())
        .await
        .expect("the bytes are sent");
    with_timeout(stream.read_exact(&mut first))
        .await
        .expect("the service responds");
    // The connection is idle longer than the read timeout: another connection with a partial head
    // times out meanwhile.
    let mut unfinished = TcpStream::connect(app.address)
        .await
        .expect("the service listens");
    unfinished
        .write_all(b"GET")
        .await
        .expect("the bytes are sent");
    let mut answer = Vec::new();
    let _closed = with_timeout(unfinished.read_to_end(&mut answer)).await;
    stream
        .write_all(request("connection: close\r\n").as_bytes())
        .await
        .expect("the bytes are sent");
    let mut remaining = String::new();
    with_timeout(stream.read_to_string(&mut remaining))
        .await
        .expect("the service responds");

    assert_eq!(
        remaining.matches("HTTP/1.1 405").count(),
        1,
        "expected a second response, found: {remaining}"
    );
}

async fn serves_http2_in_cleartext(database: Database) {
    let app = app(database).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .expect("a client");
    let request = client
        .post(app.url())
        .header("cf-webhook-auth", SECRET)
        .body(test_message(100));

    assert_eq!(response_to(request).await.outcome(), (200, "test"));
}

async fn rejects_malformed_http(database: Database) {
    let app = app(database).await;
    for sent in [
        "nonsense\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000)),
        "GET /\u{e9} HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(&app, &sent).await;

        assert!(answer.starts_with("HTTP/1.1 4"), "{sent:.40}: {answer}");
    }
    assert_eq!(
        app.post_webhook(test_message(100)).await.outcome(),
        (200, "test")
    );
}

/// Large bodies stay in memory while the database is locked, so their number is limited.
async fn many_large_bodies_get_503(database: Database) {
    // The lock must not end a request before the places are taken.
    let long_timeout = [("APP__DATABASE__TIMEOUT_SECS", "300")];
    let app = App::start_with(database, &long_timeout).await;
    app.database.register("image").await;
    let lock = app.database.lock_image("image").await;
    let body = json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z", "meta": {"note": "x".repeat(100_000)}});
    let body = body.to_string();
    // More than the 64 places.
    let mut answers: FuturesUnordered<_> = (0..80)
        .map(|_| response_to(app.request(body.clone()).header("cf-webhook-auth", SECRET)))
        .collect();

    let first = answers.next().await.expect("an answer");
    lock.release().await;

    assert_eq!(first.outcome(), (503, "busy"));
    assert_eq!(first.headers["retry-after"], "1");
}
