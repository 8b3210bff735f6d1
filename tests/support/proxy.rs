//! A TCP proxy in front of a database that simulates network failures.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The state of the simulated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkCondition {
    Normal,
    /// Each chunk is delayed by this time, in both directions.
    Delayed(Duration),
    /// The proxy forwards half of the client's next chunk and closes the connection. The server
    /// receives half a statement.
    TruncatedRequests,
    /// The proxy forwards requests. It closes the connection instead of forwarding the reply to a
    /// COMMIT. The transaction is committed, and the client cannot know.
    LostCommitReplies,
    /// The proxy refuses new connections and closes the open ones.
    Refused,
}

/// The word that ends a transaction in every form of the protocol.
const COMMIT: &[u8] = b"COMMIT";

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    condition: Mutex<NetworkCondition>,
    blackhole: Mutex<CancellationToken>,
}

impl State {
    fn condition(&self) -> NetworkCondition {
        *self.condition.lock().expect("no panic")
    }
}

impl Proxy {
    /// Starts a proxy in front of the server of this URL.
    pub(crate) async fn in_front_of(url: &str) -> Self {
        let url = url::Url::parse(url).expect("a URL");
        let server = (
            url.host_str().expect("a host").to_owned(),
            url.port().unwrap_or(5432),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            condition: Mutex::new(NetworkCondition::Normal),
            blackhole: Mutex::default(),
        });
        tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if state.condition() == NetworkCondition::Refused {
                        continue;
                    }
                    let (state, server) = (state.clone(), server.clone());
                    tokio::spawn(async move {
                        if let Ok(server) = TcpStream::connect(server).await {
                            state.forward(client, server).await;
                        }
                    });
                }
            }
        });
        Self { address, state }
    }

    /// Returns the URL through the proxy.
    pub(crate) fn url(&self, direct: &str) -> String {
        let mut url = url::Url::parse(direct).expect("a URL");
        url.set_ip_host(self.address.ip())
            .expect("a host can be set");
        url.set_port(Some(self.address.port()))
            .expect("a port can be set");
        url.to_string()
    }

    /// Stops forwarding on the current connections but leaves them open. New connections work.
    pub(crate) fn blackhole(&self) {
        let mut blackhole = self.state.blackhole.lock().expect("no panic");
        std::mem::take(&mut *blackhole).cancel();
    }

    /// Sets the state of the network for every connection.
    pub(crate) fn set(&self, condition: NetworkCondition) {
        *self.state.condition.lock().expect("no panic") = condition;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl State {
    async fn forward(&self, client: TcpStream, server: TcpStream) {
        let silenced = self.blackhole.lock().expect("no panic").clone();
        let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_reads, client_writes), (server_reads, server_writes)) =
            (client.into_split(), server.into_split());
        let sent_commit = AtomicBool::new(false);
        // A failure in one direction closes both.
        tokio::select! {
            () = self.copy(Direction::ToServer, &sent_commit, client_reads, server_writes) => {}
            () = self.copy(Direction::ToClient, &sent_commit, server_reads, client_writes) => {}
            () = silenced.cancelled() => std::future::pending().await,
        }
    }

    async fn copy(
        &self,
        direction: Direction,
        sent_commit: &AtomicBool,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            let chunk = &buffer[..read];
            if direction == Direction::ToServer {
                let has_commit = chunk.windows(COMMIT.len()).any(|words| words == COMMIT);
                sent_commit.store(has_commit, Ordering::Relaxed);
            }
            let (chunk, must_close) = match (self.condition(), direction) {
                (NetworkCondition::Delayed(delay), _) => {
                    tokio::time::sleep(delay).await;
                    (chunk, false)
                }
                (NetworkCondition::TruncatedRequests, Direction::ToServer) => {
                    (&chunk[..read / 2], true)
                }
                (NetworkCondition::Refused, _) => return,
                (NetworkCondition::LostCommitReplies, Direction::ToClient)
                    if sent_commit.load(Ordering::Relaxed) =>
                {
                    return;
                }
                (
                    NetworkCondition::Normal
                    | NetworkCondition::TruncatedRequests
                    | NetworkCondition::LostCommitReplies,
                    _,
                ) => (chunk, false),
            };
            if to.write_all(chunk).await.is_err() || must_close {
                return;
            }
        }
    }
}
