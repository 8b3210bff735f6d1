//! Accepts connections and serves HTTP/1.1 and cleartext HTTP/2 on them, under limits, until shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::client::{ClientAddress, TrustedProxies};

/// How long to wait after the system has failed to accept a connection, for example without a free file descriptor.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// The largest head of a request: its line and its headers.
const MAX_HEAD_BYTES: u16 = u16::MAX;

/// How many requests one HTTP/2 connection may have in flight. Cloudflare and proxies open further connections.
const MAX_STREAMS: u32 = 16;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// How long a client may take to send its first request's head.
    pub(crate) head_timeout: Duration,
    /// How long an idle connection is kept; at most twice that long.
    pub(crate) keep_alive: Duration,
}

/// A listener, and what is served on it.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) limits: Limits,
    pub(crate) proxies: TrustedProxies,
}

impl Server {
    /// Serves until `stop`: then it accepts no more, and each connection finishes the request it is in.
    ///
    /// Returns when it accepts no more. The connections are tasks of the tracker.
    pub(crate) async fn run(self, stop: CancellationToken, connections: TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let listener = self.listener;
        let shared = Arc::new(Shared {
            router: self.router,
            limits: self.limits,
            proxies: self.proxies,
            stop,
        });
        let stop = &shared.stop;
        loop {
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted: {error}");
                        pause(stop).await;
                        continue;
                    }
                },
            };
            connections.spawn(serve_connection(Arc::clone(&shared), stream, peer, permit));
        }
    }
}

async fn pause(stop: &CancellationToken) {
    // After the pause and after the stop alike, the loop continues.
    let _stopped = tokio::time::timeout(PAUSE_AFTER_ERROR, stop.cancelled()).await;
}

/// What the connections of a listener share.
struct Shared {
    router: Router,
    limits: Limits,
    proxies: TrustedProxies,
    stop: CancellationToken,
}

async fn serve_connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, client = %peer, "the connection was lost before it was served");
        return;
    }
    let limits = shared.limits;
    let requests = Arc::new(RequestCounter::default());
    let service = service_fn(|request: Request<Incoming>| {
        let client = shared.proxies.client(peer, request.headers());
        answer(
            shared.router.clone(),
            request,
            client,
            Arc::clone(&requests),
        )
    });
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

    let mut idle_check = pin!(tokio::time::sleep(limits.head_timeout));
    let (mut is_stopping, mut last_seen) = (false, 0);
    loop {
        tokio::select! {
            // First, so that what has arrived counts as such however late the check is.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, client = %peer, "the connection broke: {error}");
                }
                return;
            }
            () = shared.stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                idle_check.as_mut().reset(Instant::now() + limits.head_timeout);
            }
            // Covers what HTTP's own timeouts do not: a client that has not said which HTTP it speaks, one that never reads
            // its answers, and one that keeps an idle connection alive.
            () = idle_check.as_mut() => match requests.since(last_seen) {
                Some(seen) => {
                    last_seen = seen;
                    let patience = if is_stopping { limits.head_timeout } else { limits.keep_alive };
                    idle_check.as_mut().reset(Instant::now() + patience);
                }
                None => return,
            },
        }
    }
}

fn builder(limits: Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // This timer runs on idle connections too, so it cannot be shorter than their time.
        .header_read_timeout(limits.keep_alive.max(limits.head_timeout))
        .max_buf_size(MAX_HEAD_BYTES.into());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES.into());
    builder
}

/// Counts the requests of a connection.
#[derive(Default)]
struct RequestCounter {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl RequestCounter {
    /// Returns how many requests have begun; `None` if no request is in flight and none has begun since `last_seen`.
    fn since(&self, last_seen: u64) -> Option<u64> {
        let (ended, begun) = (
            self.ended.load(Ordering::Acquire),
            self.begun.load(Ordering::Acquire),
        );
        (begun > last_seen || begun > ended).then_some(begun)
    }

    fn begin(self: Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Ordering::Release);
        InFlight(self)
    }
}

/// A request in flight. Dropping it counts the request as ended, however it ends.
struct InFlight(Arc<RequestCounter>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    client: ClientAddress,
    requests: Arc<RequestCounter>,
) -> Result<axum::response::Response, Infallible> {
    let _in_flight = requests.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client);
    router.oneshot(request).await
}
