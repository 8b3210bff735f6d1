//! Certificates, and a TLS front for plain servers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The files of a certificate and its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// Makes a self-signed certificate for `localhost`, with this name, in a folder.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let certificate = folder.join(format!("{name}.pem"));
        let key = folder.join(format!("{name}-key.pem"));
        let subject = format!("/CN={name}");
        let output = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", &subject])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        Self { certificate, key }
    }

    /// Returns the path of the certificate, as a setting.
    pub(crate) fn ca_file(&self) -> String {
        self.certificate.display().to_string()
    }
}

/// A listener that accepts TLS and passes the plain bytes to a server.
pub(crate) struct TlsFront {
    port: u16,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Starts a front with this certificate.
    pub(crate) async fn start(identity: &Identity, server: SocketAddr) -> Self {
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(&identity.certificate);
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.expect("a certificate")], key)
            .expect("the key fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let accepted = acceptor.accept(stream).await;
                    let (Ok(mut client), Ok(mut server)) =
                        (accepted, TcpStream::connect(server).await)
                    else {
                        return;
                    };
                    let _closed = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { port, serving }
    }

    /// Returns a URL with this path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
