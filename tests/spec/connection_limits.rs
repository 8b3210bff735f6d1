//! Limits for clients that are not authenticated: connections, headers, memory and files.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client_addresses::TEST_MESSAGE;
use crate::on_both_databases;
use crate::support::app::{App, PATH, response_to};
use crate::support::database::Database;
use crate::support::header_flood::{flood, partial_head, wait_until_read};
use crate::support::program::{Service, open_files_limit};
use crate::support::signing::SECRET;
use crate::support::wait;

on_both_databases!(
    idle_connections_make_room,
    unauthenticated_requests_use_no_global_limit,
    large_unauthenticated_bodies_use_no_permits,
    unauthenticated_memory_is_limited,
);

async fn idle_connections_make_room(database: Database) {
    let app = App::start_with(database, &[("APP__SERVER__MAX_CONNECTIONS", "3")]).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(connect(&app).await);
    }
    // The service accepts in this order, so the last connection is open when it answers.
    begin_request(&mut idle[2], 1).await;

    let status = app.post_webhook(TEST_MESSAGE).await.status;

    assert_eq!(status, 200);
    assert_eq!(
        read_to_end(&mut idle[0]).await,
        "",
        "the longest idle one is closed"
    );
    let replaced = "connections_closed_total{reason=\"replaced\"}";
    // The connection of the first probe may also have been replaced.
    assert!(app.metric(replaced).await > 0);
    idle[2].write_all(b"x").await.expect("it is open");
    let answer = read_to_end(&mut idle[2]).await;
    assert!(answer.contains("401"), "a busy one stays open: {answer}");
}

#[tokio::test]
async fn limits_connections_of_one_client() {
    let app = App::start_with(
        Database::sqlite(),
        &[("APP__SERVER__MAX_CONNECTIONS_PER_CLIENT", "2")],
    )
    .await;
    // The connection of the first probe may still be open.
    let mut open = Vec::new();
    wait::until_async("two connections are open", async || {
        let mut stream = connect(&app).await;
        if try_begin_request(&mut stream, "", 1).await.is_ok() {
            open.push(stream);
        }
        open.len() == 2
    })
    .await;

    let refused = try_begin_request(&mut connect(&app).await, "", 1).await;
    drop(open);

    assert!(refused.is_err(), "it is over the limit");
    wait::until_async("a connection is free", async || {
        app.request(TEST_MESSAGE).send().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn trusted_proxies_have_no_connection_limit() {
    let variables = [
        ("APP__SERVER__MAX_CONNECTIONS_PER_CLIENT", "1"),
        ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let app = App::start_with(Database::sqlite(), &variables).await;
    let mut open = connect(&app).await;
    begin_request(&mut open, 1).await;

    assert_eq!(app.post_webhook(TEST_MESSAGE).await.status, 200);
}

async fn unauthenticated_requests_use_no_global_limit(database: Database) {
    let variables = [
        ("APP__WEBHOOK__RATE_LIMIT_PER_SECOND", "5"),
        ("APP__WEBHOOK__MAX_IN_FLIGHT", "1"),
    ];
    let app = App::start_with(database, &variables).await;
    let mut slow = connect(&app).await;
    begin_request(&mut slow, 1).await;

    let flood = join_all((0..50).map(|_| response_to(app.request(TEST_MESSAGE))));
    let honest = async {
        let mut outcomes = Vec::new();
        for _ in 0..5 {
            outcomes.push(app.post_webhook(TEST_MESSAGE).await.status);
        }
        outcomes
    };
    let (refused, honest) = tokio::join!(flood, honest);

    assert!(
        refused.iter().all(|answer| answer.status == 401),
        "{refused:?}"
    );
    assert_eq!(honest, [200; 5]);
}

async fn large_unauthenticated_bodies_use_no_permits(database: Database) {
    // The share of the client must fit all bodies.
    let memory = ("APP__SERVER__UNAUTHENTICATED_MEMORY_BYTES", "134217728");
    let app = App::start_with(database, &[memory]).await;
    let mut slow = Vec::new();
    for _ in 0..70 {
        let mut stream = connect(&app).await;
        begin_request(&mut stream, 100_000).await;
        slow.push(stream);
    }
    let text = "x".repeat(100_000);

    let answer = app
        .post_webhook(format!(r#"{{"text":"test message {text}"}}"#))
        .await;

    assert_eq!(answer.outcome(), (200, "test"));
}

async fn unauthenticated_memory_is_limited(database: Database) {
    let variables = [
        // 4 MiB for requests, and 40 KiB for each connection.
        ("APP__SERVER__MAX_CONNECTIONS", "64"),
        ("APP__SERVER__UNAUTHENTICATED_MEMORY_BYTES", "6815744"),
        ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        // On a busy machine, the slow bodies must not time out before the other webhooks.
        ("APP__SERVER__READ_TIMEOUT_SECS", "300"),
    ];
    let app = App::start_with(database, &variables).await;

    // One client uses up its share: a quarter of the memory.
    let mut slow = begin_for_client(&app, "192.0.2.0").await;
    wait_until_out_of_memory(&app, "192.0.2.0").await;
    let honest = app.post_webhook(TEST_MESSAGE).await;
    assert_eq!(honest.outcome(), (200, "test"));

    // Many clients use up the rest.
    for client in 1..=8 {
        slow.extend(begin_for_client(&app, &format!("192.0.2.{client}")).await);
    }
    wait_until_out_of_memory(&app, "192.0.2.9").await;
    assert!(app.metric("unauthenticated_memory_exceeded_total").await > 0);
    drop(slow);
    wait::until_async("the memory is free again", async || {
        app.post_webhook("x".repeat(1_000_000)).await.status == 400
    })
    .await;
}

/// Begins three requests for a client of the proxy. Returns those that the service has not refused yet.
async fn begin_for_client(app: &App, client: &str) -> Vec<TcpStream> {
    let mut begun = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(app).await;
        let header = format!("x-forwarded-for: {client}\r\n");
        if try_begin_request(&mut stream, &header, 250_000)
            .await
            .is_ok()
        {
            begun.push(stream);
        }
    }
    begun
}

async fn wait_until_out_of_memory(app: &App, client: &str) {
    // The part of a body counts as soon as it has arrived.
    wait::until_async("the memory is used up", async || {
        let request = app
            .request("x".repeat(600_000))
            .header("x-forwarded-for", client);
        let answer = response_to(request).await;
        answer.outcome() == (503, "busy") && answer.headers["retry-after"] == "1"
    })
    .await;
}

/// One client may use a quarter of the memory that the connections leave: 1.07 MiB or 3.9 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_less_memory_for_bodies() {
    for (connections, outcome) in [("300", (503, "busy")), ("10", (401, "unauthorized"))] {
        let variables = [
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__SERVER__MAX_CONNECTIONS", connections),
            ("APP__SERVER__BODY_LIMIT_BYTES", "2000000"),
            ("APP__SERVER__UNAUTHENTICATED_MEMORY_BYTES", "16777216"),
        ];
        let app = App::start_with(Database::sqlite(), &variables).await;

        let answer = response_to(app.request("x".repeat(1_500_000))).await;

        assert_eq!(answer.outcome(), outcome, "{connections}");
    }
}

#[test]
fn memory_limit_fits_bodies_and_connections() {
    let folder = TempDir::new().expect("a folder");
    for (key, value, is_accepted) in [
        ("APP__SERVER__BODY_LIMIT_BYTES", "12582912", true),
        ("APP__SERVER__BODY_LIMIT_BYTES", "12582913", false),
        // 62 MiB remain beside two bodies of 1 MiB.
        ("APP__SERVER__MAX_CONNECTIONS", "1587", true),
        ("APP__SERVER__MAX_CONNECTIONS", "1588", false),
        ("APP__SERVER__MAX_CONNECTIONS", "1000000", false),
    ] {
        let variables = [("CLOUDFLARE_WEBHOOK_SECRET", SECRET), (key, value)];

        let output = crate::support::program::run(folder.path(), &["check-config"], &variables);

        let stderr = crate::support::program::stderr(&output);
        let rule = "server.unauthenticated_memory_bytes: must be at least twice server.body_limit_bytes plus 40960 for each of server.max_connections";
        let code = if is_accepted { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{key} {value}: {stderr}");
        assert_eq!(stderr.contains(rule), !is_accepted, "{stderr}");
    }
}

#[tokio::test]
async fn limits_headers_over_http1() {
    let app = App::start(Database::sqlite()).await;
    // The client adds `host`, `connection`, `content-length` and `cf-webhook-auth`.
    for (headers, length, status) in [
        (96, 1, "200"),
        (97, 1, "431"),
        (1, 15_000, "200"),
        (1, 16_384, "431"),
    ] {
        let extra = format!("x: {}\r\n", "v".repeat(length)).repeat(headers);
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\ncf-webhook-auth: {SECRET}\r\n{extra}\r\n",
            TEST_MESSAGE.len()
        );
        let mut stream = connect(&app).await;
        stream
            .write_all((head + TEST_MESSAGE).as_bytes())
            .await
            .expect("it is sent");

        let answer = read_to_end(&mut stream).await;

        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{headers}: {answer}"
        );
    }
}

#[tokio::test]
async fn limits_headers_over_http2() {
    let app = App::start(Database::sqlite()).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build();
    let client = client.expect("a client");
    for (headers, length, status) in [
        (90, 1, 200),
        (101, 1, 431),
        (1, 15_000, 200),
        (1, 16_384, 431),
    ] {
        let mut request = client
            .post(app.url())
            .header("cf-webhook-auth", SECRET)
            .body(TEST_MESSAGE);
        for number in 0..headers {
            request = request.header(format!("x-{number}"), "v".repeat(length));
        }

        let response = request.send().await.expect("a response");

        assert_eq!(
            response.status(),
            status,
            "{headers} headers of {length} bytes"
        );
    }
}

/// Floods of HTTP/2 requests whose headers refer to one entry of the header table (RFC 7541). Few bytes on the wire become many
/// headers in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_floods_need_little_memory() {
    // Far too many headers, too many for the service, and as many as it accepts.
    for headers in [1900, 400, 90] {
        let folder = TempDir::new().expect("a folder");
        let service = Service::start(folder.path(), &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)]);
        let before = service.peak_memory_kib();

        let flood = flood(headers);
        let mut connections = Vec::new();
        for _ in 0..256 {
            let stream = TcpStream::connect(("127.0.0.1", service.port)).await;
            let mut stream = stream.expect("the service listens");
            stream.write_all(&flood).await.expect("the flood is sent");
            connections.push(stream);
        }
        for stream in &mut connections {
            wait_until_read(stream).await;
        }

        let growth = service.peak_memory_kib() - before;
        assert!(
            growth < 128 * 1024,
            "{headers} headers: the memory grew by {growth} KiB"
        );
    }
}

/// The memory that the service may use beside its budget: the tasks and sockets of about 300 connections with 32 KiB each, the
/// threads' arenas of the allocator, and what the service needs for its own work.
const MEMORY_BESIDE_BUDGET_KIB: u64 = 48 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_heads_and_bodies_stay_in_budget() {
    let folder = TempDir::new().expect("a folder");
    let budget_kib: u64 = 32 * 1024;
    let bytes = (budget_kib * 1024).to_string();
    let variables = [
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("APP__SERVER__MAX_CONNECTIONS", "400"),
        ("APP__SERVER__UNAUTHENTICATED_MEMORY_BYTES", &bytes),
        // On a busy machine, the first heads must not time out before the last ones.
        ("APP__SERVER__READ_TIMEOUT_SECS", "300"),
    ];
    let service = Service::start(folder.path(), &variables);
    let before = service.peak_memory_kib();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: h\r\nx: {}",
        "v".repeat(15_000)
    );
    let body = "x".repeat(1_000_000);
    let mut sent = Vec::new();
    for _ in 0..128 {
        sent.extend([head.clone().into_bytes(), partial_head()]);
    }
    for client in 0..100 {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 192.0.2.{client}\r\ncontent-length: 1000001\r\n\r\n{body}"
        );
        sent.push(head.into_bytes());
    }

    let sending = sent.iter().map(async |bytes| {
        let mut stream = TcpStream::connect(("127.0.0.1", service.port))
            .await
            .expect("the service listens");
        // The service answers some requests with 503 and closes their connections.
        let is_sent = stream.write_all(bytes).await.is_ok();
        (stream, is_sent)
    });
    let open = join_all(sending).await;

    let growth = service.peak_memory_kib() - before;
    assert!(open[..256].iter().all(|(_, is_sent)| *is_sent));
    assert!(
        growth < budget_kib + MEMORY_BESIDE_BUDGET_KIB,
        "the memory grew by {growth} KiB"
    );
}

#[test]
fn raises_limit_of_open_files() {
    let folder = TempDir::new().expect("a folder");
    for (limits, raised, is_warned) in [
        ("ulimit -S -n 100; ulimit -H -n 8192", "8192", false),
        ("ulimit -n 1000", "1000", true),
    ] {
        let program = env!("CARGO_BIN_EXE_cloudflare-images-webhook");
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limits}; exec {program}")])
            .current_dir(folder.path())
            .env_clear()
            .env("APP__SERVER__LISTEN", "127.0.0.1:0")
            .env("APP__OPS__LISTEN", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let log: Vec<String> = lines
            .map_while(Result::ok)
            .take_while(|line| !line.contains("listening for webhooks"))
            .collect();

        assert_eq!(open_files_limit(&child.id().to_string()), raised);
        let warning = "the limit of open files is too low for server.max_connections";
        let warned = log.iter().any(|line| line.contains(warning));
        assert_eq!(warned, is_warned, "{log:?}");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

async fn connect(app: &App) -> TcpStream {
    TcpStream::connect(app.address)
        .await
        .expect("the service listens")
}

/// Sends an unauthenticated request without the last byte of its body. Waits until the service reads the body.
async fn begin_request(stream: &mut TcpStream, length: usize) {
    let begun = try_begin_request(stream, "", length).await;
    begun.expect("the service reads the body");
}

async fn try_begin_request(
    stream: &mut TcpStream,
    headers: &str,
    length: usize,
) -> std::io::Result<()> {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // 100 Continue means that the request has reached the gate.
    stream.read_exact(&mut [0; 25]).await?;
    let body = "x".repeat(length - 1);
    stream.write_all(body.as_bytes()).await
}

/// Returns the bytes until the service closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(wait::WAIT_TIMEOUT, stream.read_to_end(&mut answer));
    // A connection that is closed with unread data is reset.
    let _closed_or_reset = reading.await.expect("the connection closes");
    String::from_utf8_lossy(&answer).into_owned()
}
