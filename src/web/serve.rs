//! Accepts connections and serves HTTP/1.1 and cleartext HTTP/2 on them, within limits, until shutdown.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::FutureExt;
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

use super::access_log::LineLimiter;
use super::client::{ClientAddress, TrustedProxies};
use super::connections::{Connections, InFlight, OpenConnection};
use super::middleware::with_layers;
use super::problem::{Problem, ProblemType};
use crate::telemetry::metrics::{CLIENT_LIMIT, NOT_ALLOWED, REPLACED, WebMetrics};

/// The pause after the system failed to accept a connection, for example because no file descriptor was free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The maximum size of the head of a request: the request line and the headers.
const MAX_HEAD_BYTES: u16 = 16 * 1024;

/// The maximum number of headers of a request. Genuine requests have about twenty.
const MAX_HEADERS: usize = 100;

/// The memory of the budget for each connection: its buffers, in which the head of a request arrives.
///
/// Over HTTP/1.1, the buffer has up to [`MAX_HEAD_BYTES`]. Over HTTP/2, there are a frame of up to 16 KiB, the header list with up
/// to [`MAX_HEAD_BYTES`], and the header table with up to 4 KiB.
pub(super) const CONNECTION_BYTES: usize = 40 * 1024;

/// The data that a client may send on an HTTP/2 connection before the service has read it. It is the initial window of HTTP/2
/// (RFC 9113, section 6.9.2). Larger windows would need memory for each connection.
const HTTP2_WINDOW_BYTES: u32 = 65_535;

/// The maximum size of unsent responses on one HTTP/2 stream. Responses are far smaller.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// The time between two searches for an idle connection while all connections are in use.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum number of requests in flight on one HTTP/2 connection. For more requests, Cloudflare and proxies open more
/// connections.
const MAX_STREAMS: u32 = 16;

/// The time limit for an idle connection during shutdown. Such a connection has no complete request that could get lost.
const IDLE_TIMEOUT_WHILE_STOPPING: Duration = Duration::from_secs(2);

/// The maximum number of streams that a client has reset, or that the service has refused, before the connection is closed.
const MAX_RESET_STREAMS: usize = 64;

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// The limit for one client. Trusted proxies have no limit.
    pub(crate) max_connections_per_client: Option<usize>,
    /// The time limit for the head of the first request on a connection.
    pub(crate) head_timeout: Duration,
    /// The time limit for an idle connection. The connection is closed after once to twice this time.
    pub(crate) keep_alive: Duration,
}

/// Returns whether clients with an address may connect.
pub(crate) type AddressFilter = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// A listener with its router and limits.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    pub(crate) limits: Limits,
    pub(crate) proxies: TrustedProxies,
    /// The addresses that may connect. `None` means that all addresses may.
    pub(crate) address_filter: Option<AddressFilter>,
    pub(crate) log_limiter: Arc<LineLimiter>,
    pub(crate) metrics: WebMetrics,
}

impl Server {
    /// Accepts connections until `stop`. Each connection then finishes its requests in flight and closes.
    ///
    /// Returns when it stops accepting. The connections run as tasks of the tracker.
    pub(crate) async fn run(self, stop: CancellationToken, tasks: TaskTracker) {
        let log_limiter = Arc::clone(&self.log_limiter);
        let context = Arc::new(ConnectionContext {
            head_too_large: with_layers(Router::new().fallback(head_too_large), log_limiter),
            router: self.router.clone(),
            limits: self.limits,
            proxies: self.proxies.clone(),
            stop,
        });
        let connections = Arc::new(Connections::default());
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let stop = &context.stop;
        let accepting = async {
            loop {
                let (stream, peer) = self.accept().await;
                if let Some(connection) = self.admit(&connections, peer) {
                    let permit = self.permit(&permits, &connections).await;
                    let serving = serve_connection(Arc::clone(&context), stream, peer, connection);
                    tasks.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
            }
        };
        // Stopping drops at most one connection that waits for a permit.
        let _stopped = stop.run_until_cancelled(accepting).await;
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // A listener on `[::]` sees IPv4 clients under IPv6 addresses.
                    return (
                        stream,
                        SocketAddr::new(peer.ip().to_canonical(), peer.port()),
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Adds a connection to the table. Returns `None` if its address is not allowed, or if the client has too many connections.
    fn admit(&self, connections: &Arc<Connections>, peer: SocketAddr) -> Option<OpenConnection> {
        let client = peer.ip().to_canonical();
        let is_allowed = self
            .address_filter
            .as_ref()
            .is_none_or(|allows| allows(client));
        if !is_allowed {
            self.metrics.count_closed(NOT_ALLOWED);
            if self.log_limiter.permits(StatusCode::FORBIDDEN.as_u16()) {
                tracing::info!(client = %peer, "closed a connection from an address that is not allowed (webhook.allowed_addresses)");
            }
            return None;
        }
        let is_proxy = self.proxies.trusted.contains(client);
        let limit = self.limits.max_connections_per_client.filter(|_| !is_proxy);
        let opened = connections.open(client, limit);
        if opened.is_none() {
            self.metrics.count_closed(CLIENT_LIMIT);
            if self
                .log_limiter
                .permits(StatusCode::TOO_MANY_REQUESTS.as_u16())
            {
                tracing::info!(client = %peer, "closed a connection of a client with too many connections (server.max_connections_per_client)");
            }
        }
        opened
    }

    /// Waits for a permit. While there is none, closes connections that are idle.
    async fn permit(
        &self,
        permits: &Arc<Semaphore>,
        connections: &Connections,
    ) -> OwnedSemaphorePermit {
        let mut permit = pin!(Arc::clone(permits).acquire_owned());
        loop {
            if let Some(permit) = permit.as_mut().now_or_never() {
                return permit.expect("the semaphore is never closed");
            }
            if connections.close_longest_idle() {
                self.metrics.count_closed(REPLACED);
            }
            let waiting = tokio::time::timeout(FULL_RETRY_INTERVAL, permit.as_mut());
            if let Ok(permit) = waiting.await {
                return permit.expect("the semaphore is never closed");
            }
        }
    }
}

/// Answers a request whose head is too large.
async fn head_too_large() -> Problem {
    Problem::of(ProblemType::HeadTooLarge)
}

/// The data that all connections of a listener share.
struct ConnectionContext {
    router: Router,
    /// Answers requests with too many headers.
    head_too_large: Router,
    limits: Limits,
    proxies: TrustedProxies,
    stop: CancellationToken,
}

async fn serve_connection(
    context: Arc<ConnectionContext>,
    stream: TcpStream,
    peer: SocketAddr,
    open: OpenConnection,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, client = %peer, "connection lost before it was served");
        return;
    }
    let limits = context.limits;
    let requests = open.activity();
    let service = service_fn(|mut request: Request<Incoming>| {
        let client = context.proxies.client(peer, request.headers());
        let router = if request.headers().len() > MAX_HEADERS {
            request.headers_mut().clear();
            &context.head_too_large
        } else {
            &context.router
        };
        answer(router.clone(), request, client, open.start_request())
    });
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

    let mut idle_check = pin!(tokio::time::sleep(limits.head_timeout));
    let (mut is_stopping, mut is_closing, mut last_count) = (false, false, 0);
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
            () = requests.closing(), if !is_closing => {
                if !requests.is_busy() {
                    return;
                }
                // A request has arrived at the same time. The connection closes after its response.
                is_closing = true;
                connection.as_mut().graceful_shutdown();
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
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES.into());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES.into());
    builder
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    client: ClientAddress,
    _in_flight: InFlight,
) -> Result<axum::response::Response, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client);
    router.oneshot(request).await
}
