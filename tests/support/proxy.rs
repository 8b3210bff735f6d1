//! A TCP proxy before a database, which does to connections what networks do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What happens to what goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing.
    Fair,
    /// Each piece comes so much later, either way.
    Late(Duration),
    /// Half a piece of what the client says gets through, and the connection breaks: a statement is cut in two.
    CutOff,
    /// What the client says gets through. When it said COMMIT, nobody hears the answer, and the connection breaks: it is committed, and
    /// the client cannot know.
    Unheard,
    /// New connections are refused, and those there are break.
    Closed,
}

/// How a transaction ends that was to be committed, in whichever of the protocol's forms.
const COMMIT: &[u8] = b"COMMIT";

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    weather: Mutex<Weather>,
    silence: Mutex<CancellationToken>,
}

impl State {
    fn weather(&self) -> Weather {
        *self.weather.lock().expect("no panic")
    }
}

impl Proxy {
    /// Stands before the server of this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let url = url::Url::parse(url).expect("a URL");
        let server = (
            url.host_str().expect("a host").to_owned(),
            url.port().unwrap_or(5432),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            weather: Mutex::new(Weather::Fair),
            silence: Mutex::default(),
        });
        tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if state.weather() == Weather::Closed {
                        continue;
                    }
                    let (state, server) = (state.clone(), server.clone());
                    tokio::spawn(async move {
                        if let Ok(server) = TcpStream::connect(server).await {
                            state.carry(client, server).await;
                        }
                    });
                }
            }
        });
        Self { address, state }
    }

    /// The URL through the proxy.
    pub(crate) fn url(&self, direct: &str) -> String {
        let mut url = url::Url::parse(direct).expect("a URL");
        url.set_ip_host(self.address.ip())
            .expect("a host can be set");
        url.set_port(Some(self.address.port()))
            .expect("a port can be set");
        url.to_string()
    }

    /// From now on nothing goes over the connections there are: they are open, and dead. New ones work.
    pub(crate) fn silence(&self) {
        let mut silence = self.state.silence.lock().expect("no panic");
        std::mem::take(&mut *silence).cancel();
    }

    /// From now on this happens to every connection.
    pub(crate) fn set(&self, weather: Weather) {
        *self.state.weather.lock().expect("no panic") = weather;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Clients,
    Servers,
}

impl State {
    async fn carry(&self, client: TcpStream, server: TcpStream) {
        let silenced = self.silence.lock().expect("no panic").clone();
        let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_reads, client_writes), (server_reads, server_writes)) =
            (client.into_split(), server.into_split());
        let said_commit = AtomicBool::new(false);
        // When one way breaks, so does the other.
        tokio::select! {
            () = self.pump(Whose::Clients, &said_commit, client_reads, server_writes) => {}
            () = self.pump(Whose::Servers, &said_commit, server_reads, client_writes) => {}
            () = silenced.cancelled() => std::future::pending().await,
        }
    }

    async fn pump(
        &self,
        whose: Whose,
        said_commit: &AtomicBool,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            let piece = &buffer[..read];
            if whose == Whose::Clients {
                let says = piece.windows(COMMIT.len()).any(|words| words == COMMIT);
                said_commit.store(says, Ordering::Relaxed);
            }
            let (piece, breaks) = match (self.weather(), whose) {
                (Weather::Late(by), _) => {
                    tokio::time::sleep(by).await;
                    (piece, false)
                }
                (Weather::CutOff, Whose::Clients) => (&piece[..read / 2], true),
                (Weather::Closed, _) => return,
                (Weather::Unheard, Whose::Servers) if said_commit.load(Ordering::Relaxed) => return,
                (Weather::Fair | Weather::CutOff | Weather::Unheard, _) => (piece, false),
            };
            if to.write_all(piece).await.is_err() || breaks {
                return;
            }
        }
    }
}
