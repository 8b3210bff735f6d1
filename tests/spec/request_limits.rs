//! Bodies that are too large, too slow, or oddly sent.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::on_both_databases;
use crate::support::app::{App, PATH};
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

/// HTTP/2, RFC 9113: an empty SETTINGS frame, the type of a PING, and the flag of its answer.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: u8 = 6;
const ACK: u8 = 1;

/// A test message of exactly so many bytes.
fn message(length: usize) -> String {
    format!(
        r#"{{"text":"{}"}}"#,
        "x".repeat(length - r#"{"text":""}"#.len())
    )
}

fn head(more: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncf-webhook-auth: {SECRET}\r\n{more}\r\n"
    )
}

fn chunked(body: &str, chunk: usize) -> String {
    let chunks = body
        .as_bytes()
        .chunks(chunk)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)));
    format!("{}0\r\n\r\n", chunks.collect::<String>())
}

/// Reads, and gives up loudly on a service that neither answers nor closes.
async fn in_time(reading: impl Future<Output = std::io::Result<usize>>) -> std::io::Result<usize> {
    tokio::time::timeout(wait::PATIENCE, reading)
        .await
        .expect("it answers or closes")
}

/// Sends bytes and reads all that comes back.
async fn exchange(app: &App, request: &str) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is read");
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer))
        .await
        .expect("it answers");
    answer
}

on_both_databases!(
    a_body_at_the_limit_is_taken_and_one_over_it_answered_with_413,
    a_body_in_chunks_is_held_to_the_same_limit,
    a_client_that_expects_100_continue_is_told_to_go_on,
    a_client_that_expects_100_continue_is_refused_before_it_sends_too_much,
    a_body_that_comes_a_byte_a_second_is_answered_with_408,
    a_connection_that_says_nothing_or_half_a_head_is_closed,
    clients_that_vanish_leave_the_service_as_it_was,
    clients_that_never_read_their_answers_do_not_keep_others_out,
    an_http_2_connection_that_answers_every_ping_and_asks_for_nothing_is_closed,
    an_idle_connection_is_kept_longer_than_a_head_may_take,
    http_2_in_cleartext_is_served_too,
    what_is_no_http_is_refused_and_the_service_goes_on,
);

async fn a_body_at_the_limit_is_taken_and_one_over_it_answered_with_413(database: Database) {
    let app = app(database).await;

    assert_eq!(
        app.deliver(message(LIMIT - 1)).await.outcome(),
        (200, "test")
    );
    assert_eq!(app.deliver(message(LIMIT)).await.outcome(), (200, "test"));
    assert_eq!(
        app.deliver(message(LIMIT + 1)).await.outcome(),
        (413, "body-too-large")
    );
    assert_eq!(
        app.deliver(message(3 * LIMIT)).await.outcome(),
        (413, "body-too-large")
    );
}

async fn a_body_in_chunks_is_held_to_the_same_limit(database: Database) {
    let app = app(database).await;
    for (length, status) in [
        (LIMIT - 1, "200 OK"),
        (LIMIT, "200 OK"),
        (LIMIT + 1, "413 Payload Too Large"),
        (3 * LIMIT, "413 Payload Too Large"),
    ] {
        for chunk in [1, 700, 10_000] {
            let request =
                head("transfer-encoding: chunked\r\n") + &chunked(&message(length), chunk);

            let answer = exchange(&app, &request).await;

            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{length} in chunks of {chunk}: {answer}"
            );
        }
    }
}

async fn a_client_that_expects_100_continue_is_told_to_go_on(database: Database) {
    let app = app(database).await;
    let body = message(100);
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");

    stream
        .write_all(head("expect: 100-continue\r\ncontent-length: 100\r\n").as_bytes())
        .await
        .expect("it is read");
    let mut first = [0; 25];
    in_time(stream.read_exact(&mut first))
        .await
        .expect("it answers before the body is sent");
    stream.write_all(body.as_bytes()).await.expect("it is read");
    let mut rest = String::new();
    in_time(stream.read_to_string(&mut rest))
        .await
        .expect("it answers");

    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
}

async fn a_client_that_expects_100_continue_is_refused_before_it_sends_too_much(
    database: Database,
) {
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

async fn a_body_that_comes_a_byte_a_second_is_answered_with_408(database: Database) {
    let app = app(database).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(head("content-length: 100\r\n").as_bytes())
        .await
        .expect("it is read");
    let (mut reading, mut writing) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        loop {
            every_second.tick().await;
            if writing.write_all(b"x").await.is_err() {
                return;
            }
        }
    });

    let mut answer = String::new();
    in_time(reading.read_to_string(&mut answer))
        .await
        .expect("it answers");

    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("urn:cloudflare-images-webhook:problem:read-timeout"),
        "{answer}"
    );
    dripping.abort();
}

async fn a_connection_that_says_nothing_or_half_a_head_is_closed(database: Database) {
    let app = app(database).await;
    for said in ["", "P", "PRI * HTTP/2.0", "POST / HTTP/1.1\r\nhost: local"] {
        let answer = exchange(&app, said).await;

        assert_eq!(answer, "", "{said:?}");
    }
    assert_eq!(
        app.deliver(message(100)).await.outcome(),
        (200, "test"),
        "the service goes on"
    );
}

async fn clients_that_vanish_leave_the_service_as_it_was(database: Database) {
    let app = app(database).await;
    app.database.register("image").await;
    let body = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;
    for sent in [
        head("content-length: 100\r\n"),
        head("content-length: 48\r\n") + &body[..20],
        head("transfer-encoding: chunked\r\n") + "5\r\nab",
    ] {
        let mut stream = TcpStream::connect(app.address).await.expect("it listens");
        stream.write_all(sent.as_bytes()).await.expect("it is read");
    }

    assert_eq!(app.deliver(body).await.outcome(), (200, "applied"));
}

async fn clients_that_never_read_their_answers_do_not_keep_others_out(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__MAX_CONNECTIONS", "2"),
            ("APP__SERVER__READ_TIMEOUT_SECS", "1"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "1"),
        ],
    )
    .await;
    let hogs: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(app.address).expect("it listens");
            stream.set_nonblocking(true).expect("it can be");
            // Until the service reads no more, because nobody reads its answers.
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

    assert_eq!(app.deliver(message(100)).await.outcome(), (200, "test"));
    drop(hogs);
}

async fn an_http_2_connection_that_answers_every_ping_and_asks_for_nothing_is_closed(
    database: Database,
) {
    let app = app(database).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("it is read");
    stream.write_all(&SETTINGS).await.expect("it is read");

    // RFC 9113, section 4.1: three bytes of length, the type, the flags, four bytes of stream.
    let talk = async {
        let (mut head, mut frames) = ([0; 9], 0);
        while stream.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream
                .read_exact(&mut payload)
                .await
                .expect("the frame is whole");
            frames += 1;
            if head[3] == PING && head[4] == 0 {
                head[4] = ACK;
                // It may be closing; then the next read says so.
                let _closed = stream.write_all(&[&head[..], &payload].concat()).await;
            }
        }
        frames
    };
    let frames = tokio::time::timeout(wait::PATIENCE, talk)
        .await
        .expect("it is closed");

    assert!(frames > 0, "it spoke HTTP/2");
}

async fn an_idle_connection_is_kept_longer_than_a_head_may_take(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__READ_TIMEOUT_SECS", "1"),
            ("APP__SERVER__KEEP_ALIVE_SECS", "600"),
        ],
    )
    .await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let request = |more: &str| format!("GET {PATH} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    let mut first = [0; 24];

    stream
        .write_all(request("").as_bytes())
        .await
        .expect("it is read");
    in_time(stream.read_exact(&mut first))
        .await
        .expect("it answers");
    // Idle for longer than a head may take: one that begins now and never ends is given up meanwhile.
    let mut unfinished = TcpStream::connect(app.address).await.expect("it listens");
    unfinished.write_all(b"GET").await.expect("it is read");
    let mut answer = Vec::new();
    let _closed = in_time(unfinished.read_to_end(&mut answer)).await;
    stream
        .write_all(request("connection: close\r\n").as_bytes())
        .await
        .expect("it is read");
    let mut rest = String::new();
    in_time(stream.read_to_string(&mut rest))
        .await
        .expect("it answers");

    assert_eq!(
        rest.matches("HTTP/1.1 405").count(),
        1,
        "the second was answered too: {rest}"
    );
}

async fn http_2_in_cleartext_is_served_too(database: Database) {
    let app = app(database).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .expect("a client");
    let request = client
        .post(app.url())
        .header("cf-webhook-auth", SECRET)
        .body(message(100));

    assert_eq!(
        crate::support::app::answer(request).await.outcome(),
        (200, "test")
    );
}

async fn what_is_no_http_is_refused_and_the_service_goes_on(database: Database) {
    let app = app(database).await;
    for said in [
        "nonsense\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000)),
        "GET /\u{e9} HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(&app, &said).await;

        assert!(answer.starts_with("HTTP/1.1 4"), "{said:.40}: {answer}");
    }
    assert_eq!(app.deliver(message(100)).await.outcome(), (200, "test"));
}
