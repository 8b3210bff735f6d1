//! Debian's proxies: tinyproxy for HTTP, and microsocks for SOCKS5. A test fails if they are not
//! installed.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::ports::free_port;
use super::wait;

/// The user of both proxies.
pub(crate) const USER: &str = "images:pa55word";

/// A running proxy that accepts only its user.
pub(crate) struct OutboundProxy {
    scheme: &'static str,
    port: u16,
    child: Child,
    _folder: TempDir,
}

impl OutboundProxy {
    /// Starts an HTTP proxy. It refuses the host `refused.example`.
    pub(crate) fn http() -> Self {
        let folder = TempDir::new().expect("a folder");
        let port = free_port();
        let filter = folder.path().join("filter");
        fs::write(&filter, "refused\\.example\n").expect("a file");
        let configuration = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth {}\nFilter \"{}\"\n",
            USER.replace(':', " "),
            filter.display()
        );
        let file = folder.path().join("tinyproxy.conf");
        fs::write(&file, configuration).expect("a file");
        let mut command = Command::new("tinyproxy");
        command.args(["-d", "-c"]).arg(file);
        Self::start("http", port, command, folder)
    }

    /// Starts a SOCKS5 proxy.
    pub(crate) fn socks5() -> Self {
        let (user, password) = USER.split_once(':').expect("it has a colon");
        let port = free_port();
        let mut command = Command::new("microsocks");
        command
            .args(["-i", "127.0.0.1", "-p", &port.to_string()])
            .args(["-u", user, "-P", password]);
        Self::start("socks5", port, command, TempDir::new().expect("a folder"))
    }

    fn start(scheme: &'static str, port: u16, mut command: Command, folder: TempDir) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the proxy is installed (Debian's packages tinyproxy-bin and microsocks)");
        wait::until("the proxy listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            scheme,
            port,
            child,
            _folder: folder,
        }
    }

    /// Returns the URL with this user and password.
    pub(crate) fn url(&self, user: &str) -> String {
        format!("{}://{user}@127.0.0.1:{}", self.scheme, self.port)
    }
}

impl Drop for OutboundProxy {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}
