//! Clients that take their time, and clients that go away.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::app::PATH;
use crate::support::program::may_open;
use crate::support::signing::SECRET;

/// How many clients are slow at once, if this process may have so many files open.
const MANY: usize = 3000;

/// How many of them go on, a byte at a time; the others say nothing more.
const DRIPPING: usize = 100;

/// How many vanish, one after another.
const VANISHING: usize = 500;

/// What they have said when they stop: nothing, one letter, half a head, a head, half a body.
fn beginnings() -> [String; 5] {
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

/// Thousands of them, after some of them said a byte more, and again; so long as they are held, they are there.
pub(super) async fn slow(port: u16, between_bytes: Duration) -> Vec<TcpStream> {
    let many = MANY.min(may_open("self").parse().unwrap_or(usize::MAX) / 4);
    let mut clients = Vec::with_capacity(many);
    for beginning in beginnings().iter().cycle().take(many) {
        if let Some(client) = say(port, beginning).await {
            clients.push(client);
        }
    }
    assert!(
        clients.len() > many / 2,
        "most of them came in: {} of {many}",
        clients.len()
    );
    for _ in 0..3 {
        for client in clients.iter_mut().take(DRIPPING) {
            // It may have been closed, for being slow.
            let _closed = client.write_all(b"x").await;
        }
        tokio::time::sleep(between_bytes).await;
    }
    clients
}

/// Some that are gone before they are answered, half of them without a farewell.
pub(super) async fn vanishing(port: u16) {
    for (number, beginning) in beginnings().iter().cycle().take(VANISHING).enumerate() {
        let client = say(port, beginning).await.expect("it comes in");
        if number.is_multiple_of(2) {
            // RST instead of FIN.
            client.set_zero_linger().expect("it can be set");
        }
    }
}

/// A client that says this, and no more.
pub(super) async fn say(port: u16, beginning: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(beginning.as_bytes()).await.ok()?;
    Some(stream)
}
