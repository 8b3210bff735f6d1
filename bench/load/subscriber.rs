//! Subscribers: a fast one, one that never answers, and one that always fails.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The behavior of a subscriber.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Answers 200 at once.
    Fast,
    /// Never answers.
    Hanging,
    /// Answers 500.
    Failing,
}

/// A running subscriber. Dropping it stops it.
pub(crate) struct Subscriber {
    address: SocketAddr,
    received: Arc<Received>,
    server: JoinHandle<()>,
}

/// The messages that a subscriber has received.
#[derive(Default)]
struct Received {
    count: AtomicUsize,
    /// The time of the first message about each image. Recording it costs time, so only the latency measurement does it.
    times: Option<Mutex<HashMap<String, Instant>>>,
}

impl Subscriber {
    /// Starts a subscriber that counts its messages.
    pub(crate) fn start(behavior: Behavior) -> Self {
        Self::serve(behavior, Received::default())
    }

    /// Starts a fast subscriber that also records the time of the first message about each image.
    pub(crate) fn start_with_times() -> Self {
        let received = Received {
            times: Some(Mutex::default()),
            ..Received::default()
        };
        Self::serve(Behavior::Fast, received)
    }

    fn serve(behavior: Behavior, received: Received) -> Self {
        let received = Arc::new(received);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        listener
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let shared = Arc::clone(&received);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_connection(stream, behavior, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            received,
            server,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Returns the number of messages that were received.
    pub(crate) fn count(&self) -> usize {
        self.received.count.load(Ordering::Relaxed)
    }

    /// Returns the time of the first message about an image.
    pub(crate) fn received_at(&self, image: &str) -> Option<Instant> {
        let times = self.received.times.as_ref()?;
        times.lock().expect("no panic").get(image).copied()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Reads the requests of a connection and answers each of them.
async fn serve_connection(mut stream: TcpStream, behavior: Behavior, received: Arc<Received>) {
    let _no_delay = stream.set_nodelay(true);
    let response: &[u8] = match behavior {
        Behavior::Failing => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        Behavior::Fast | Behavior::Hanging => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    };
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        while let Some(length) = request_length(&buffer) {
            if behavior == Behavior::Hanging {
                return tokio::time::sleep(Duration::from_hours(1)).await;
            }
            received.record(&buffer[..length]);
            buffer.drain(..length);
            if stream.write_all(response).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Returns the length of the first request; `None` if it is not complete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..end]).expect("the head is UTF-8");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = end + length.expect("a Content-Length");
    (buffer.len() >= length).then_some(length)
}

impl Received {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn record(&self, request: &[u8]) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let Some(times) = &self.times else {
            return;
        };
        let now = Instant::now();
        let text = String::from_utf8_lossy(request);
        let image = text
            .split_once("\"cloudflare_id\":\"")
            .and_then(|(_, after)| after.split('"').next());
        let image = image.expect("a message has an image id").to_owned();
        let mut times = times.lock().expect("no panic");
        times.entry(image).or_insert(now);
    }
}
