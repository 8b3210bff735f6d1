//! Slow clients, clients that disconnect, and clients that send many headers.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::app::PATH;
use crate::support::header_flood::{flood, wait_until_read};
use crate::support::program::open_files_limit;
use crate::support::signing::SECRET;

/// The number of simultaneous slow clients, if the limit of open files allows it.
const SLOW_CLIENTS: usize = 3000;

/// The number of slow clients that continue, one byte at a time.
const SENDING_CLIENTS: usize = 100;

/// The number of clients that disconnect, one after another.
const DISCONNECTING_CLIENTS: usize = 500;

/// The number of clients that flood the service with headers.
const FLOODING_CLIENTS: usize = 256;

/// A number of headers that the service accepts.
const ACCEPTED_HEADERS: usize = 90;

/// Returns the parts of a request after which clients stop: none, one letter, half a head, a head,
/// half a body.
fn partial_requests() -> [String; 5] {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: 100\r\n\r\n"
    );
    [
        String::new(),
        "P".to_owned(),
        head[..40].to_owned(),
        head.clone(),
        head + "{\"id\":",
    ]
}

/// Opens thousands of slow connections. They stay open until the result is dropped.
pub(super) async fn open_slow(port: u16, between_bytes: Duration) -> Vec<TcpStream> {
    let count = SLOW_CLIENTS.min(open_files_limit("self").parse().unwrap_or(usize::MAX) / 4);
    let mut clients = Vec::with_capacity(count);
    for partial_request in partial_requests().iter().cycle().take(count) {
        if let Some(client) = connect_and_send(port, partial_request).await {
            clients.push(client);
        }
    }
    assert!(
        clients.len() > count / 2,
        "only {} of {count} clients connected",
        clients.len()
    );
    for _ in 0..3 {
        for client in clients.iter_mut().take(SENDING_CLIENTS) {
            // The service may have closed the slow connection.
            let _closed = client.write_all(b"x").await;
        }
        tokio::time::sleep(between_bytes).await;
    }
    clients
}

/// Opens connections and closes them before the response, half of them with RST.
pub(super) async fn connect_and_disconnect(port: u16) {
    for (number, partial_request) in partial_requests()
        .iter()
        .cycle()
        .take(DISCONNECTING_CLIENTS)
        .enumerate()
    {
        let client = connect_and_send(port, partial_request)
            .await
            .expect("the client connects");
        if number.is_multiple_of(2) {
            // Closes with RST instead of FIN.
            client.set_zero_linger().expect("the linger time is set");
        }
    }
}

/// Opens connections with many HTTP/2 requests, each with as many headers as the service accepts. The connections stay open
/// until the result is dropped.
pub(super) async fn flood_with_headers(port: u16) -> Vec<TcpStream> {
    let flood = flood(ACCEPTED_HEADERS);
    let mut clients = Vec::with_capacity(FLOODING_CLIENTS);
    for _ in 0..FLOODING_CLIENTS {
        let client = TcpStream::connect(("127.0.0.1", port)).await;
        let mut client = client.expect("the client connects");
        // The service may close the connection before it has read everything.
        let _closed = client.write_all(&flood).await;
        wait_until_read(&mut client).await;
        clients.push(client);
    }
    clients
}

/// Opens a connection and sends part of a request.
pub(super) async fn connect_and_send(port: u16, partial_request: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(partial_request.as_bytes()).await.ok()?;
    Some(stream)
}
