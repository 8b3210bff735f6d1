//! The encryption of connections, as the log describes it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls::TlsMode;
use super::{DatabaseUrl, PostgresUrl};

/// The longest wait for the server's answer. Without an answer, the log says that the encryption is unknown.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The message that asks a server for TLS (Postgres documentation, "Message Formats", `SSLRequest`).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

const UNVERIFIED: &str = "TLS, without a check of the server";

impl DatabaseUrl {
    /// Returns how connections are encrypted. `None` for SQLite, which has no connections.
    pub async fn encryption(&self) -> Option<&'static str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(url) => Some(url.encryption().await),
        }
    }
}

impl PostgresUrl {
    async fn encryption(&self) -> &'static str {
        match self.tls {
            TlsMode::Disable if self.is_socket() => "none, local socket",
            TlsMode::Disable => "none",
            TlsMode::Prefer => match tokio::time::timeout(PROBE_TIMEOUT, self.offers_tls()).await {
                Ok(Ok(true)) => UNVERIFIED,
                Ok(Ok(false)) => "none",
                Ok(Err(_)) | Err(_) => "unknown",
            },
            TlsMode::Require => UNVERIFIED,
            TlsMode::VerifyCa => "TLS, with a check of the authority but not of the server",
            TlsMode::VerifyFull => "TLS, with a check of the server",
        }
    }

    /// Asks the server for TLS, as each connection does. `pg_stat_ssl` would describe the connection between a pooler and the
    /// server.
    async fn offers_tls(&self) -> std::io::Result<bool> {
        let address = (self.options.get_host(), self.options.get_port());
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&SSL_REQUEST).await?;
        Ok(stream.read_u8().await? == b'S')
    }
}
