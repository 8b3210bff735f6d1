//! The listeners: the health check on the port for webhooks, one port for everything, and `PORT`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, client, response_to};
use crate::support::database::Database;
use crate::support::ports::free_port;
use crate::support::program::{Service, end_of, path, run, stderr};
use crate::support::signing::SECRET;
use crate::support::wait;

const SECRET_VARIABLE: (&str, &str) = ("CLOUDFLARE_WEBHOOK_SECRET", SECRET);
const TEST_MESSAGE: &str = r#"{"text":"test message"}"#;

on_both_databases!(
    health_check_needs_no_authentication,
    one_port_serves_webhooks_and_probes,
);

async fn health_check_needs_no_authentication(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24"),
        ],
    )
    .await;
    let url = |path: &str| format!("http://{}{path}", app.address);

    let health = response_to(app.client().get(url("/healthz"))).await;
    let slash = response_to(app.client().get(url("/healthz/"))).await;
    let head = response_to(app.client().head(url("/healthz"))).await;
    let post = response_to(app.client().post(url("/healthz"))).await;
    let other = response_to(app.client().get(url("/readyz"))).await;

    assert_eq!(
        (health.status.as_u16(), &health.body),
        (200, &"ok\n".into())
    );
    assert_eq!((slash.status, head.status), (health.status, health.status));
    assert_eq!(post.outcome(), (405, "method-not-allowed"));
    assert_eq!(other.outcome(), (404, "no-such-route"));
}

async fn one_port_serves_webhooks_and_probes(database: Database) {
    let (folder, port) = (TempDir::new().expect("a folder"), free_port());
    let variables = [
        SECRET_VARIABLE,
        ("DATABASE_URL", database.url.as_str()),
        ("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24"),
    ];
    let service = Service::start_on(folder.path(), &variables, port, port);
    let status = async |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        response_to(client().get(url)).await.status.as_u16()
    };
    // The port answers before the migrations have run.
    wait::until_async("it is ready", async || status("/readyz").await == 200).await;

    let probes = [
        status("/healthz").await,
        status("/livez").await,
        status("/readyz").await,
        status("/metrics").await,
    ];
    let webhook = client().post(service.url()).body(TEST_MESSAGE);
    let webhook = response_to(webhook.header("cf-webhook-auth", SECRET)).await;

    assert_eq!(probes, [200; 4]);
    assert_eq!(webhook.outcome(), (403, "address-not-allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_answers_during_migration() {
    let (folder, port) = (TempDir::new().expect("a folder"), free_port());
    let database = Database::postgres().await;
    database
        .execute_script(include_str!("../fixtures/django_toolkit.sql"))
        .await;
    let lock = database.hold_lock_of("LOCK TABLE cloudflare_images").await;
    let variables = [SECRET_VARIABLE, ("DATABASE_URL", database.url.as_str())];
    let mut service = Service::launch(folder.path(), &variables, port, port);
    database.wait_for_lock_waiter().await;
    let send_webhook = async || {
        let webhook = client().post(service.url()).body(TEST_MESSAGE);
        response_to(webhook.header("cf-webhook-auth", SECRET)).await
    };

    let health = response_to(client().get(service.ops_url("/healthz"))).await;
    let readiness = response_to(client().get(service.ops_url("/readyz"))).await;
    let early = send_webhook().await;
    lock.release().await;
    wait::until_async("the migrations have run", async || {
        let readiness = response_to(client().get(service.ops_url("/readyz"))).await;
        readiness.status == 200
    })
    .await;
    wait::until_async("webhooks are accepted", async || {
        send_webhook().await.outcome() == (200, "test")
    })
    .await;
    service.signal("-TERM");

    assert_eq!(
        (health.status.as_u16(), readiness.status.as_u16()),
        (200, 503)
    );
    assert_eq!(early.outcome(), (503, "busy"));
    assert!(early.headers.contains_key("retry-after"));
    assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_probes_share_one_check() {
    let app = App::start(Database::postgres().await).await;
    // Only the readiness check reads this table.
    let sql = "LOCK TABLE cloudflare_images_webhook_migrations";
    let lock = app.database.hold_lock_of(sql).await;
    let probes = tokio::spawn({
        let url = format!("http://{}/readyz", app.ops);
        let client = app.client().clone();
        async move { join_all((0..8).map(|_| response_to(client.get(&url)))).await }
    });

    let mut most_waiters = 0;
    wait::until_async("the probes are answered", async || {
        most_waiters = most_waiters.max(app.database.lock_waiters().await);
        probes.is_finished()
    })
    .await;
    let answers = probes.await.expect("no panic");
    lock.release().await;

    assert!(answers.iter().all(|answer| answer.status == 503));
    assert_eq!(most_waiters, 1);
}

#[test]
fn health_check_is_logged_at_debug() {
    for (filter, is_logged) in [("info", false), ("debug", true)] {
        let folder = TempDir::new().expect("a folder");
        let variables = [SECRET_VARIABLE, ("RUST_LOG", filter)];
        let mut service = Service::start(folder.path(), &variables);

        let answer = get(service.port, "/healthz");
        service.signal("-TERM");
        service.wait();

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let lines = service.log();
        let has_line = lines.iter().any(|line| line.contains("/healthz"));
        assert_eq!(has_line, is_logged, "{lines:?}");
    }
}

#[test]
fn health_path_is_configurable() {
    for (path, probed, status) in [
        ("/up", "/up", "200"),
        ("/up", "/healthz", "404"),
        ("off", "/healthz", "404"),
    ] {
        let folder = TempDir::new().expect("a folder");
        let variables = [SECRET_VARIABLE, ("APP__SERVER__HEALTH_PATH", path)];
        let service = Service::start(folder.path(), &variables);

        let answer = get(service.port, probed);

        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

/// Variables whose listeners collide, and the error.
const COLLISIONS: [(&[(&str, &str)], &str); 7] = [
    (
        &[("APP__SERVER__LISTEN", "0.0.0.0:9090")],
        "error: ops.listen: port 9090 on this address is taken by server.listen (from config/default.toml, server.listen from \
         APP__SERVER__LISTEN). Use another port, or the same address for both.\n",
    ),
    (
        &[("PORT", "9090")],
        "error: ops.listen: port 9090 on this address is taken by server.listen (from config/default.toml, server.listen from PORT)",
    ),
    (
        &[("APP__OPS__LISTEN", "[::]:8080")],
        "error: ops.listen: port 8080 on this address is taken by server.listen (from APP__OPS__LISTEN, server.listen from config/default.toml)",
    ),
    (
        &[("APP__WEBHOOK__PATH", "/healthz/")],
        "error: server.health_path: must differ from webhook.path",
    ),
    (
        &[
            ("APP__SERVER__HEALTH_PATH", "/"),
            ("APP__WEBHOOK__PATH", "/"),
        ],
        "error: server.health_path: must differ from webhook.path (from APP__SERVER__HEALTH_PATH)",
    ),
    (
        &[
            ("APP__OPS__LISTEN", "127.0.0.1:8080"),
            ("APP__WEBHOOK__PATH", "/metrics"),
        ],
        "error: webhook.path: is a path of ops.listen, which has the port of server.listen (from APP__WEBHOOK__PATH)",
    ),
    (
        &[
            ("APP__OPS__LISTEN", "127.0.0.1:8080"),
            ("APP__SERVER__HEALTH_PATH", "/readyz"),
        ],
        "error: server.health_path: is a path of ops.listen, which has the port of server.listen",
    ),
];

#[test]
fn colliding_listeners_name_both_keys() {
    let folder = TempDir::new().expect("a folder");
    for (variables, error) in COLLISIONS {
        let output = run(folder.path(), &["check-config"], variables);

        assert_eq!(output.status.code(), Some(2), "{variables:?}");
        let printed = stderr(&output);
        assert!(printed.starts_with(error), "{printed}");
    }
}

#[test]
fn port_alone_listens_on_both_families() {
    let (folder, port) = (TempDir::new().expect("a folder"), free_port());
    let number = port.to_string();
    let variables = [("APP__SERVER__LISTEN", ""), ("PORT", number.as_str())];
    let service = Service::start_on(folder.path(), &variables, port, free_port());

    let over_ipv6 = TcpStream::connect(("::1", port));

    assert!(over_ipv6.is_ok(), "{over_ipv6:?}");
    let message = "PORT is set and server.listen is not, so the service listens on every address";
    let lines = service.log();
    let line = lines.iter().find(|line| line.contains(message));
    let line = line.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(line.contains(&format!("[::]:{port}")), "{line}");
}

#[test]
fn log_shows_ipv4_clients_of_both_families() {
    let (folder, port) = (TempDir::new().expect("a folder"), free_port());
    let listen = format!("[::]:{port}");
    let variables = [("APP__SERVER__LISTEN", listen.as_str())];
    let mut service = Service::start_on(folder.path(), &variables, port, free_port());

    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    client
        .write_all(b"GET /unknown HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("it is sent");
    let mut response = String::new();
    client.read_to_string(&mut response).expect("a response");
    service.signal("-TERM");
    service.wait();

    let log = service.log().join("\n");
    assert!(log.contains("127.0.0.1:"), "{log}");
    assert!(!log.contains("::ffff:"), "{log}");
}

/// Runs the service in a network with no address but `::1`, asks it with two commands, and stops it.
const ONLY_IPV6: &str = r#"
ip link set lo up && ip address delete 127.0.0.1/8 dev lo || exit 1
"$0" serve & service=$!
until "$0" healthcheck 2>/dev/null; do kill -0 $service || exit 1; done
"$0" send image --shape test || exit 1
kill $service && wait $service
"#;

#[test]
fn runs_in_ipv6_only_network() {
    for ops in ["[::1]:9090", "[::]:3000"] {
        let folder = TempDir::new().expect("a folder");
        let mut command = Command::new("unshare");
        command
            .args([
                "--map-root-user",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", ONLY_IPV6, &path()])
            .current_dir(folder.path())
            .env("PORT", "3000")
            .env("APP__OPS__LISTEN", ops);

        let output = end_of(command);

        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(answer.contains(r#"{"outcome":"test"}"#), "{answer}");
    }
}

/// Sends a GET request and returns the whole answer.
fn get(port: u16, path: &str) -> String {
    use std::io::{Read, Write};

    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the service listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
