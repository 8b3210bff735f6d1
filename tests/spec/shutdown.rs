//! Shutdown: signals, deadlines and exit codes.

use std::io::{Read, Write};
use std::net::TcpStream;

use tempfile::TempDir;

use crate::support::app::{CLAIMS_METRIC, PATH, wait_for_pass};
use crate::support::database::Database;
use crate::support::ports::free_port;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::wait;

const SECRET_VARIABLE: (&str, &str) = ("CLOUDFLARE_WEBHOOK_SECRET", SECRET);
const BODY: &str = r#"{"text":"test message"}"#;

/// Opens a connection with a read timeout.
fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the service listens");
    stream
        .set_read_timeout(Some(wait::WAIT_TIMEOUT))
        .expect("the timeout is not zero");
    stream
}

/// Sends all of a request except its last byte. The request is then in flight.
fn begin_request(service: &Service) -> TcpStream {
    let mut stream = connect(service.port);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        BODY.len()
    );
    stream
        .write_all(head.as_bytes())
        .expect("the bytes are sent");
    // 100 Continue means that the request has reached the handler.
    let mut answer = [0; 25];
    stream
        .read_exact(&mut answer)
        .expect("the service responds");
    stream
        .write_all(&BODY.as_bytes()[..BODY.len() - 1])
        .expect("the bytes are sent");
    stream
}

fn finish_request(mut stream: TcpStream) -> String {
    stream
        .write_all(&BODY.as_bytes()[BODY.len() - 1..])
        .expect("the bytes are sent");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the service responds and closes the connection");
    answer
}

/// Waits until the service has logged a line with this text.
fn wait_for_log(service: &Service, text: &str) {
    wait::until("the line is logged", || {
        service.log().iter().any(|line| line.contains(text))
    });
}

#[test]
fn signals_finish_requests_and_exit_0() {
    for signal in ["-TERM", "-INT"] {
        let folder = TempDir::new().expect("a folder");
        let mut service = Service::start(folder.path(), &[SECRET_VARIABLE]);
        let in_flight = begin_request(&service);

        service.signal(signal);
        wait_for_log(&service, "received SIG");
        wait::until("the service accepts no connections", || {
            TcpStream::connect(("127.0.0.1", service.port)).is_err()
        });
        let answer = finish_request(in_flight);

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
    }
}

#[test]
fn idle_connection_does_not_delay_exit() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[SECRET_VARIABLE]);
    let mut idle = connect(service.port);
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    idle.write_all(request.as_bytes())
        .expect("the bytes are sent");
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).expect("the service responds");

    service.signal("-TERM");

    assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
}

#[test]
fn second_signal_forces_exit_3() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(
        folder.path(),
        &[SECRET_VARIABLE, ("APP__SERVER__READ_TIMEOUT_SECS", "300")],
    );
    let _in_flight = begin_request(&service);

    service.signal("-TERM");
    wait_for_log(&service, "received SIGTERM");
    service.signal("-INT");

    assert_eq!(service.wait().code(), Some(3), "{:?}", service.log());
}

#[test]
fn incomplete_body_does_not_delay_exit() {
    let folder = TempDir::new().expect("a folder");
    let variables = [
        SECRET_VARIABLE,
        ("APP__SERVER__READ_TIMEOUT_SECS", "300"),
        ("APP__SHUTDOWN__DEADLINE_SECS", "2"),
    ];
    let mut service = Service::start(folder.path(), &variables);
    let mut in_flight = begin_request(&service);

    service.signal("-TERM");
    let mut answer = String::new();
    in_flight
        .read_to_string(&mut answer)
        .expect("the service responds and closes the connection");

    assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("The service is stopping, and the body was not complete."),
        "{answer}"
    );
}

#[test]
fn stopping_service_is_live_but_not_ready() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[SECRET_VARIABLE]);
    let in_flight = begin_request(&service);

    service.signal("-TERM");
    wait_for_log(&service, "received SIGTERM");
    let (liveness, readiness) = (get_ops(&service, "/livez"), get_ops(&service, "/readyz"));
    finish_request(in_flight);

    assert!(liveness.starts_with("HTTP/1.1 200 OK\r\n"), "{liveness}");
    assert!(
        readiness.starts_with("HTTP/1.1 503") && readiness.contains(r#""status":"stopping""#),
        "{readiness}"
    );
    assert_eq!(service.wait().code(), Some(0));
}

fn get_ops(service: &Service, path: &str) -> String {
    let mut stream = connect(service.ops_port);
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .expect("the bytes are sent");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the service responds");
    answer
}

#[tokio::test]
async fn unresponsive_database_does_not_delay_exit() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres_own_server().await;
    let variables = [
        SECRET_VARIABLE,
        ("DATABASE_URL", database.url.as_str()),
        ("APP__SHUTDOWN__DEADLINE_SECS", "1"),
    ];
    let mut service = Service::start(folder.path(), &variables);
    let in_flight = begin_request(&service);
    let cluster = database
        .cluster
        .as_ref()
        .expect("the database has its own server");

    cluster.freeze();
    let mut stream = in_flight;
    stream
        .write_all(&BODY.as_bytes()[BODY.len() - 1..])
        .expect("the bytes are sent");
    service.signal("-TERM");
    let ended = service.wait();
    cluster.thaw();

    assert_eq!(ended.code(), Some(3), "{:?}", service.log());
}

#[tokio::test]
async fn unresponsive_database_without_webhooks_exits_0() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres_own_server().await;
    let endpoints = r#"[{"name": "app", "url": "http://127.0.0.1:1/"}]"#;
    let variables = [
        SECRET_VARIABLE,
        ("DATABASE_URL", database.url.as_str()),
        ("APP__RELAY__ENDPOINTS", endpoints),
        ("APP__SHUTDOWN__DEADLINE_SECS", "1"),
    ];
    let mut service = Service::start(folder.path(), &variables);
    wait_for_pass(&service.ops_url("/metrics"), CLAIMS_METRIC).await;
    let cluster = database
        .cluster
        .as_ref()
        .expect("the database has its own server");

    cluster.freeze();
    service.signal("-TERM");
    let ended = service.wait();
    cluster.thaw();

    assert_eq!(ended.code(), Some(0), "{:?}", service.log());
}

#[test]
fn incomplete_head_does_not_force_exit() {
    let folder = TempDir::new().expect("a folder");
    let variables = [SECRET_VARIABLE, ("APP__SERVER__READ_TIMEOUT_SECS", "300")];
    let mut service = Service::start(folder.path(), &variables);
    let mut slow = connect(service.port);
    slow.write_all(format!("POST {PATH} HTTP/1.1\r\nhost: ").as_bytes())
        .expect("the bytes are sent");

    service.signal("-TERM");

    assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
}

#[tokio::test]
async fn stops_during_migration() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres().await;
    database
        .execute_script(include_str!("../fixtures/django_toolkit.sql"))
        .await;
    let lock = database.hold_lock_of("LOCK TABLE cloudflare_images").await;
    let variables = [SECRET_VARIABLE, ("DATABASE_URL", database.url.as_str())];
    let mut service = Service::launch(folder.path(), &variables, free_port(), free_port());
    database.wait_for_lock_waiter().await;

    let (liveness, readiness) = (get_ops(&service, "/livez"), get_ops(&service, "/readyz"));
    service.signal("-TERM");
    let ended = service.wait();
    lock.release().await;

    assert!(liveness.starts_with("HTTP/1.1 200 OK\r\n"), "{liveness}");
    assert!(
        readiness.starts_with("HTTP/1.1 503") && readiness.contains("pending migrations"),
        "{readiness}"
    );
    assert_eq!(ended.code(), Some(0), "{:?}", service.log());
}
