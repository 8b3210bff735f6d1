//! Apps that are told: as fast as HTTP/1.1 can be answered, one that never answers, and one that always fails.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    Hanging,
    Failing,
}

/// A running subscriber.
pub(crate) struct Subscriber {
    address: SocketAddr,
    told: Arc<EffectiveTime>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct EffectiveTime {
    count: AtomicUsize,
    /// When each image was first told of, where that is asked for.
    images: Mutex<HashMap<String, Instant>>,
    keeps_times: bool,
}

impl Subscriber {
    /// One that counts, and keeps when which image came if that is asked for.
    pub(crate) fn start(manner: Manner, keeps_times: bool) -> Self {
        let told = Arc::new(EffectiveTime {
            keeps_times,
            ..EffectiveTime::default()
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("it can be");
        let listener = TcpListener::from_std(listener).expect("within a runtime");
        let shared = Arc::clone(&told);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, manner, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            told,
            serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many messages have come.
    pub(crate) fn count(&self) -> usize {
        self.told.count.load(Ordering::Relaxed)
    }

    /// When an image was told of.
    pub(crate) fn told_at(&self, image: &str) -> Option<Instant> {
        let images = self.told.images.lock().expect("no panic");
        images.get(image).copied()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads requests one after another, and answers each.
async fn serve(mut stream: TcpStream, manner: Manner, told: Arc<EffectiveTime>) {
    let _no_delay = stream.set_nodelay(true);
    let answer: &[u8] = match manner {
        Manner::Failing => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        Manner::Good | Manner::Hanging => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    };
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        while let Some(length) = request_length(&buffer) {
            if manner == Manner::Hanging {
                return tokio::time::sleep(Duration::from_hours(1)).await;
            }
            told.note(&buffer[..length]);
            buffer.drain(..length);
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// How long the first request is, if all of it is there.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..end]).expect("headers are text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = end + length.expect("a length");
    (buffer.len() >= whole).then_some(whole)
}

impl EffectiveTime {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn note(&self, request: &[u8]) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if !self.keeps_times {
            return;
        }
        let now = Instant::now();
        let text = String::from_utf8_lossy(request);
        let image = text
            .split_once("\"cloudflare_id\":\"")
            .and_then(|(_, rest)| rest.split('"').next());
        let image = image.expect("a message names its image").to_owned();
        let mut images = self.images.lock().expect("no panic");
        images.entry(image).or_insert(now);
    }
}
