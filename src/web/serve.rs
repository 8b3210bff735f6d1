//! Accepts connections and serves HTTP/1.1 and cleartext HTTP/2 on them, within limits, until shutdown.

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

/// The pause after the system failed to accept a connection, for example because no file descriptor was free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The maximum size of the head of a request: the request line and the headers.
const MAX_HEAD_BYTES: u16 = u16::MAX;

/// The maximum number of requests in flight on one HTTP/2 connection. For more requests, Cloudflare and proxies open more
/// connections.
const MAX_STREAMS: u32 = 16;

/// The time limit for an idle connection during shutdown. Such a connection has no complete request that could get lost.
const IDLE_TIMEOUT_WHILE_STOPPING: Duration = Duration::from_secs(2);

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// The time limit for the head of the first request on a connection.
    pub(crate) head_timeout: Duration,
    /// The time limit for an idle connection. The connection is closed after once to twice this time.
    pub(crate) keep_alive: Duration,
}

/// A listener with its router and limits.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) limits: Limits,
    pub(crate) proxies: TrustedProxies,
}

impl Server {
    /// Accepts connections until `stop`. Each connection then finishes its requests in flight and closes.
    ///
    /// Returns when it stops accepting. The connections run as tasks of the tracker.
    pub(crate) async fn run(self, stop: CancellationToken, connections: TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let listener = self.listener;
        let context = Arc::new(ConnectionContext {
            router: self.router,
            limits: self.limits,
            proxies: self.proxies,
            stop,
        });
        let stop = &context.stop;
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
                        tracing::warn!(%error, "cannot accept a connection: {error}");
                        pause(stop).await;
                        continue;
                    }
                },
            };
            connections.spawn(serve_connection(Arc::clone(&context), stream, peer, permit));
        }
    }
}

async fn pause(stop: &CancellationToken) {
    // The caller checks `stop` itself, so the result does not matter.
    let _stopped = tokio::time::timeout(ACCEPT_RETRY_DELAY, stop.cancelled()).await;
}

/// The data that all connections of a listener share.
struct ConnectionContext {
    router: Router,
    limits: Limits,
    proxies: TrustedProxies,
    stop: CancellationToken,
}

async fn serve_connection(
    context: Arc<ConnectionContext>,
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, client = %peer, "connection lost before it was served");
        return;
    }
    let limits = context.limits;
    let requests = Arc::new(RequestCounter::default());
    let service = service_fn(|request: Request<Incoming>| {
        let client = context.proxies.client(peer, request.headers());
        answer(
            context.router.clone(),
            request,
            client,
            Arc::clone(&requests),
        )
    });
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

    let mut idle_check = pin!(tokio::time::sleep(limits.head_timeout));
    let (mut is_stopping, mut last_count) = (false, 0);
    loop {
        tokio::select! {
            // The connection is polled first, so a late idle check still counts a request that has arrived.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, client = %peer, "connection failed: {error}");
                }
                return;
            }
            () = context.stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                idle_check.as_mut().reset(Instant::now() + IDLE_TIMEOUT_WHILE_STOPPING);
            }
            // The HTTP timeouts do not cover some clients. They have not yet chosen an HTTP version, never read their responses, or
            // keep an idle connection alive.
            () = idle_check.as_mut() => match requests.started_after(last_count) {
                Some(count) => {
                    last_count = count;
                    let timeout = if is_stopping { IDLE_TIMEOUT_WHILE_STOPPING } else { limits.keep_alive };
                    idle_check.as_mut().reset(Instant::now() + timeout);
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
        // This timer also runs on idle connections, so it must not be shorter than the keep-alive time.
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

/// The counter of the requests on a connection.
#[derive(Default)]
struct RequestCounter {
    started: AtomicU64,
    ended: AtomicU64,
}

impl RequestCounter {
    /// Returns the number of started requests. Returns `None` if no request is in flight and none has started since `last_count`.
    fn started_after(&self, last_count: u64) -> Option<u64> {
        let (ended, started) = (
            self.ended.load(Ordering::Acquire),
            self.started.load(Ordering::Acquire),
        );
        (started > last_count || started > ended).then_some(started)
    }

    fn start(self: Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Ordering::Release);
        InFlight(self)
    }
}

/// A request in flight. Dropping it counts the request as ended, with or without a response.
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
    let _in_flight = requests.start();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client);
    router.oneshot(request).await
}
