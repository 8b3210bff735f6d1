//! A TCP proxy before a database, whose connections can be made to fall silent: open, and dead.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    silence: Arc<Mutex<CancellationToken>>,
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
        let silence = Arc::new(Mutex::new(CancellationToken::new()));
        tokio::spawn({
            let silence = silence.clone();
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let silenced = silence.lock().expect("no panic").clone();
                    let server = server.clone();
                    tokio::spawn(async move {
                        let Ok(mut server) = TcpStream::connect(server).await else {
                            return;
                        };
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => {}
                            () = silenced.cancelled() => std::future::pending().await,
                        }
                    });
                }
            }
        });
        Self { address, silence }
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

    /// From now on nothing goes over the connections there are; new ones work.
    pub(crate) fn silence(&self) {
        let mut silence = self.silence.lock().expect("no panic");
        std::mem::replace(&mut *silence, CancellationToken::new()).cancel();
    }
}
