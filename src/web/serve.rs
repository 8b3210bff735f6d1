//! Accepting connections and serving HTTP/1.1 and cleartext HTTP/2 on them, under limits, until asked to stop.

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

use super::client::{ClientAddress, Proxies};

/// How long to wait after the system would not accept a connection, for instance for want of file descriptors.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// The most that is kept of a request's head: its line and its headers.
const MAX_HEAD_BYTES: u16 = u16::MAX;

/// How many requests one HTTP/2 connection may have in flight. Cloudflare and proxies open further connections.
const MAX_STREAMS: u32 = 16;

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How many connections are served at once.
    pub(crate) max_connections: usize,
    /// How long a client may take to send its first request's head.
    pub(crate) head_timeout: Duration,
    /// How long a connection is kept on which nothing happens; at the most twice that long.
    pub(crate) keep_alive: Duration,
}

/// Serves until asked to stop: then accepts no more, and lets each connection finish the request it is in.
///
/// Returns when it accepts no more. The connections are tasks of the tracker.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    proxies: Proxies,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let proxies = Arc::new(proxies);
    let places = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place.expect("nobody closes the semaphore"),
        };
        let (stream, client) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted: {error}");
                    pause(&stop).await;
                    continue;
                }
            },
        };
        tasks.spawn(serve_connection(
            stream,
            client,
            router.clone(),
            limits,
            Arc::clone(&proxies),
            stop.clone(),
            place,
        ));
    }
}

async fn pause(stop: &CancellationToken) {
    // Whether the pause or the stop ends it, the loop looks again.
    let _stopped = tokio::time::timeout(PAUSE_AFTER_REFUSAL, stop.cancelled()).await;
}

async fn serve_connection(
    stream: TcpStream,
    client: SocketAddr,
    router: Router,
    limits: Limits,
    proxies: Arc<Proxies>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %client, "the connection was lost before it was served");
        return;
    }
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request: Request<Incoming>| {
        let client = proxies.client(client, request.headers());
        answer(router.clone(), request, client, Arc::clone(&activity))
    });
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));

    let mut look = pin!(tokio::time::sleep(limits.head_timeout));
    let (mut is_stopping, mut last_seen) = (false, 0);
    loop {
        tokio::select! {
            // First, so that what has arrived counts as such however late we look.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %client, "the connection broke: {error}");
                }
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                look.as_mut().reset(Instant::now() + limits.head_timeout);
            }
            // Covers what HTTP's own timeouts do not: a client that has not said which HTTP it speaks, one that never reads
            // its answers, and one that keeps an idle connection alive.
            () = look.as_mut() => match activity.since(last_seen) {
                Some(seen) => {
                    last_seen = seen;
                    let patience = if is_stopping { limits.head_timeout } else { limits.keep_alive };
                    look.as_mut().reset(Instant::now() + patience);
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
        // Runs while a connection is idle too, so it cannot be shorter than that may last.
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

/// What happens on a connection.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// How many requests have begun, unless none is in flight and none has begun since that many had.
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

/// A request, from its head to its answer; dropped with it, however it ends.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    client: ClientAddress,
    activity: Arc<Activity>,
) -> Result<axum::response::Response, Infallible> {
    let _in_flight = activity.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client);
    router.oneshot(request).await
}
