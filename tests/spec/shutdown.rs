//! Signals, deadlines, exit codes.

use std::io::{Read, Write};
use std::net::TcpStream;

use tempfile::TempDir;

use crate::support::app::PATH;
use crate::support::cluster::free_port;
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::wait;

const SECRET_IS_SET: (&str, &str) = ("CLOUDFLARE_WEBHOOK_SECRET", SECRET);
const BODY: &str = r#"{"text":"t"}"#;

/// A connection that waits for nothing for ever.
fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream
        .set_read_timeout(Some(wait::PATIENCE))
        .expect("it is no zero");
    stream
}

/// Sends all but the last byte of a request, so that it is in flight.
fn begin_request(service: &Service) -> TcpStream {
    let mut stream = connect(service.port);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        BODY.len()
    );
    stream.write_all(head.as_bytes()).expect("it is read");
    // 100 Continue says that the request has reached the handler.
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).expect("it answers");
    stream
        .write_all(&BODY.as_bytes()[..BODY.len() - 1])
        .expect("it is read");
    stream
}

fn finish_request(mut stream: TcpStream) -> String {
    stream
        .write_all(&BODY.as_bytes()[BODY.len() - 1..])
        .expect("it is read");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it answers, and closes");
    answer
}

/// Waits until the service has said something with these words.
fn wait_for_log(service: &Service, words: &str) {
    wait::until("the log says so", || {
        service.log().iter().any(|line| line.contains(words))
    });
}

#[test]
fn sigterm_and_sigint_finish_what_is_in_flight_and_end_with_0() {
    for signal in ["-TERM", "-INT"] {
        let folder = TempDir::new().expect("a folder");
        let mut service = Service::start(folder.path(), &[SECRET_IS_SET]);
        let in_flight = begin_request(&service);

        service.signal(signal);
        wait_for_log(&service, "received SIG");
        wait::until("it accepts no more", || {
            TcpStream::connect(("127.0.0.1", service.port)).is_err()
        });
        let answer = finish_request(in_flight);

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
    }
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[SECRET_IS_SET]);
    let mut idle = connect(service.port);
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    idle.write_all(request.as_bytes()).expect("it is read");
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).expect("it answers");

    service.signal("-TERM");

    assert_eq!(service.wait().code(), Some(0), "{:?}", service.log());
}

#[test]
fn a_second_signal_forces_the_end_with_3() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(
        folder.path(),
        &[SECRET_IS_SET, ("APP__SERVER__READ_TIMEOUT_SECS", "300")],
    );
    let _in_flight = begin_request(&service);

    service.signal("-TERM");
    wait_for_log(&service, "received SIGTERM");
    service.signal("-INT");

    assert_eq!(service.wait().code(), Some(3), "{:?}", service.log());
}

#[test]
fn the_deadline_forces_the_end_with_3() {
    let folder = TempDir::new().expect("a folder");
    let variables = [
        SECRET_IS_SET,
        ("APP__SERVER__READ_TIMEOUT_SECS", "300"),
        ("APP__SHUTDOWN__DEADLINE_SECS", "1"),
    ];
    let mut service = Service::start(folder.path(), &variables);
    let _in_flight = begin_request(&service);

    service.signal("-TERM");

    assert_eq!(service.wait().code(), Some(3), "{:?}", service.log());
}

#[test]
fn while_it_is_stopping_it_is_alive_but_not_ready() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[SECRET_IS_SET]);
    let in_flight = begin_request(&service);

    service.signal("-TERM");
    wait_for_log(&service, "received SIGTERM");
    let (liveness, readiness) = (probe(&service, "/livez"), probe(&service, "/readyz"));
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
        .expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[tokio::test]
async fn a_database_that_does_not_answer_cannot_hold_up_the_end() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres_own_server().await;
    let variables = [
        SECRET_IS_SET,
        ("DATABASE_URL", database.url.as_str()),
        ("APP__SHUTDOWN__DEADLINE_SECS", "1"),
    ];
    let mut service = Service::start(folder.path(), &variables);
    let in_flight = begin_request(&service);
    let cluster = database.cluster.as_ref().expect("a server of its own");

    cluster.freeze();
    let mut stream = in_flight;
    stream
        .write_all(&BODY.as_bytes()[BODY.len() - 1..])
        .expect("it is read");
    service.signal("-TERM");
    let ended = service.wait();
    cluster.thaw();

    assert_eq!(ended.code(), Some(3), "{:?}", service.log());
}

#[tokio::test]
async fn while_it_migrates_it_is_alive_and_not_ready_and_can_be_stopped() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres().await;
    database
        .execute_script(include_str!("../fixtures/django_toolkit.sql"))
        .await;
    let lock = database.hold_lock_of("LOCK TABLE cloudflare_images").await;
    let variables = [SECRET_IS_SET, ("DATABASE_URL", database.url.as_str())];
    let mut service = Service::launch(folder.path(), &variables, free_port(), free_port());
    database.wait_for_lock_waiter().await;

    let (liveness, readiness) = (probe(&service, "/livez"), probe(&service, "/readyz"));
    service.signal("-TERM");
    let ended = service.wait();
    lock.release().await;

    assert!(liveness.starts_with("HTTP/1.1 200 OK\r\n"), "{liveness}");
    assert!(
        readiness.starts_with("HTTP/1.1 503") && readiness.contains("these have not run"),
        "{readiness}"
    );
    assert_eq!(ended.code(), Some(0), "{:?}", service.log());
}
