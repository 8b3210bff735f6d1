//! A private nats-server with a temporary folder and a port of its own. A test fails if it is not
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::{Client, ConnectError, ConnectOptions};
use percent_encoding::percent_decode_str;
use tempfile::TempDir;

use super::certificates::Identity;
use super::ports::free_port;
use super::signing::{standard, timestamped};
use super::subscriber::RELAY_SECRET;
use super::wait;

/// A server with `JetStream` that a test can kill and restart.
pub(crate) struct NatsServer {
    folder: TempDir,
    port: u16,
    child: Child,
    /// The user information in the URL.
    userinfo: &'static str,
    /// The CA certificate for TLS.
    ca_file: Option<PathBuf>,
    /// The credentials of the tests' own client, if they are not in the URL.
    options: Option<ClientOptions>,
}

/// Returns the options of the tests' own client.
type ClientOptions = Box<dyn Fn() -> ConnectOptions + Send + Sync>;

impl NatsServer {
    /// Starts a server without authentication.
    pub(crate) async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// Starts a server with TLS.
    pub(crate) async fn start_tls(certificate: &Path, key: &Path) -> Self {
        let (certificate_file, key) = (certificate.display(), key.display());
        let tls = format!("tls {{ cert_file = \"{certificate_file}\", key_file = \"{key}\" }}");
        Self::launch(&tls, "", Some(certificate.to_owned()), None).await
    }

    /// Starts a server with TLS that accepts only clients with this certificate.
    pub(crate) async fn start_mutual_tls(server: &Identity, client: &Identity) -> Self {
        let [certificate, key, ca] = [&server.certificate, &server.key, &client.certificate];
        let tls = format!(
            "tls {{ cert_file = \"{}\", key_file = \"{}\", ca_file = \"{}\", verify = true }}",
            certificate.display(),
            key.display(),
            ca.display()
        );
        let client = client.clone();
        let options: ClientOptions = Box::new(move || {
            let (certificate, key) = (client.certificate.clone(), client.key.clone());
            ConnectOptions::new().add_client_certificate(certificate, key)
        });
        Self::launch(&tls, "", Some(certificate.to_owned()), Some(options)).await
    }

    /// Starts a server with these lines in its configuration. The credentials have all permissions.
    pub(crate) async fn start_with_credentials(configuration: &str, credentials: &str) -> Self {
        let credentials = credentials.to_owned();
        let options: ClientOptions = Box::new(move || {
            ConnectOptions::with_credentials(&credentials).expect("the credentials are valid")
        });
        Self::launch(configuration, "", None, Some(options)).await
    }

    /// Starts a server with these lines in its configuration. The user information belongs to a
    /// user with all permissions.
    pub(crate) async fn start_with(configuration: &str, userinfo: &'static str) -> Self {
        Self::launch(configuration, userinfo, None, None).await
    }

    async fn launch(
        configuration: &str,
        userinfo: &'static str,
        ca_file: Option<PathBuf>,
        options: Option<ClientOptions>,
    ) -> Self {
        let folder = TempDir::with_prefix("images-webhook-nats-").expect("a temporary folder");
        let port = free_port();
        let path = folder.path().display();
        let configuration = format!(
            "host = 127.0.0.1\nport = {port}\njetstream {{ store_dir = \"{path}/store\" }}\n{configuration}\n"
        );
        fs::write(folder.path().join("nats.conf"), configuration).expect("a file");
        let server = Self {
            child: spawn(&folder),
            folder,
            port,
            userinfo,
            ca_file,
            options,
        };
        server.wait_until_ready().await;
        server
    }

    /// Returns the URL for an endpoint.
    pub(crate) fn url(&self) -> String {
        self.url_as(self.userinfo)
    }

    /// Returns the URL with other user information.
    pub(crate) fn url_as(&self, userinfo: &str) -> String {
        let at = if userinfo.is_empty() { "" } else { "@" };
        format!("nats://{userinfo}{at}127.0.0.1:{}", self.port)
    }

    /// Returns the TLS URL with this host name.
    pub(crate) fn tls_url(&self, host: &str) -> String {
        format!("tls://{host}:{}", self.port)
    }

    async fn connect(&self) -> Result<Client, ConnectError> {
        let userinfo = percent_decode_str(self.userinfo).decode_utf8_lossy();
        let options = match userinfo.split_once(':') {
            _ if let Some(options) = &self.options => options(),
            Some((user, password)) => {
                ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            }
            None if !userinfo.is_empty() => ConnectOptions::with_token(userinfo.into_owned()),
            None => ConnectOptions::new(),
        };
        match &self.ca_file {
            None => options.connect(self.url_as("")).await,
            Some(ca_file) => {
                let options = options.add_root_certificates(ca_file.clone());
                options.connect(self.tls_url("localhost")).await
            }
        }
    }

    /// Gets or creates the stream with all subjects of this prefix.
    pub(crate) async fn stream(&self, prefix: &str) -> Stream {
        let client = self.connect().await.expect("it answers");
        let config = Config {
            name: "IMAGES".to_owned(),
            subjects: vec![format!("{prefix}.>")],
            ..Config::default()
        };
        let jetstream = async_nats::jetstream::new(client);
        let stream = jetstream.get_or_create_stream(config).await;
        stream.expect("a stream")
    }

    /// Waits for this number of messages in the stream, checks and returns them.
    pub(crate) async fn wait_for(&self, prefix: &str, count: u64) -> Vec<StreamMessage> {
        let mut stream = self.stream(prefix).await;
        wait::until_async("the messages are in the stream", async || {
            stream.info().await.expect("it answers").state.messages >= count
        })
        .await;
        let state = &stream.info().await.expect("it answers").state;
        let mut messages = Vec::new();
        // An empty stream starts at sequence 0, which holds no message.
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("a message");
            check(&message);
            messages.push(message);
        }
        messages
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Restarts the server with its stored messages.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.folder);
        self.wait_until_ready().await;
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill runs").success());
    }

    async fn wait_until_ready(&self) {
        wait::until_async("the nats-server answers", async || {
            self.connect().await.is_ok()
        })
        .await;
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn spawn(folder: &TempDir) -> Child {
    Command::new("nats-server")
        .arg("--config")
        .arg(folder.path().join("nats.conf"))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed (Debian's package nats-server)")
}

/// Returns a header, which must exist.
pub(crate) fn header<'a>(message: &'a StreamMessage, name: &str) -> &'a str {
    let value = message.headers.get(name);
    value
        .unwrap_or_else(|| panic!("the header {name} is missing"))
        .as_str()
}

/// Panics if a subscriber that follows the documentation would reject this message.
fn check(message: &StreamMessage) {
    let id = header(message, "Nats-Msg-Id");
    assert!(id.starts_with("evt_"), "{id}");
    assert_eq!(header(message, "x-webhook-event-id"), id);
    assert_eq!(header(message, "webhook-id"), id);
    assert_eq!(header(message, "content-type"), "application/json");
    let seconds = |name| header(message, name).parse().expect("seconds");
    assert_eq!(
        header(message, "x-webhook-signature"),
        timestamped(
            RELAY_SECRET,
            seconds("x-webhook-timestamp"),
            &message.payload
        )
    );
    assert_eq!(
        header(message, "webhook-signature"),
        standard(
            RELAY_SECRET,
            id,
            seconds("webhook-timestamp"),
            &message.payload
        )
    );
}
