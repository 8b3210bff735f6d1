//! A private nats-server: a temporary folder, a port of its own. A missing one is a loud failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::{Client, ConnectError, ConnectOptions};
use percent_encoding::percent_decode_str;
use tempfile::TempDir;

use super::cluster::free_port;
use super::signing::{standard, timestamped};
use super::subscriber::RELAY_SECRET;
use super::wait;

/// A server with `JetStream`, which can be killed and started again.
pub(crate) struct NatsServer {
    folder: TempDir,
    port: u16,
    child: Child,
    /// Goes before the host in a URL.
    login: &'static str,
    /// Over TLS, and who answers for its certificate.
    authority: Option<PathBuf>,
}

impl NatsServer {
    /// One that anybody may use.
    pub(crate) async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// One that is reached over TLS, with this certificate and its key.
    pub(crate) async fn start_tls(certificate: &Path, key: &Path) -> Self {
        let (certificate_file, key) = (certificate.display(), key.display());
        let tls = format!("tls {{ cert_file = \"{certificate_file}\", key_file = \"{key}\" }}");
        Self::start_trusting(&tls, "", Some(certificate.to_owned())).await
    }

    /// One with these lines in its configuration, and what goes before the @ of a URL that may do everything.
    pub(crate) async fn start_with(configuration: &str, login: &'static str) -> Self {
        Self::start_trusting(configuration, login, None).await
    }

    async fn start_trusting(
        configuration: &str,
        login: &'static str,
        authority: Option<PathBuf>,
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
            login,
            authority,
        };
        server.wait_until_it_answers().await;
        server
    }

    /// What an endpoint's URL is.
    pub(crate) fn url(&self) -> String {
        self.url_as(self.login)
    }

    /// The same with something else before the @.
    pub(crate) fn url_as(&self, login: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        format!("nats://{login}{at}127.0.0.1:{}", self.port)
    }

    /// The URL over TLS, by this name.
    pub(crate) fn tls_url(&self, host: &str) -> String {
        format!("tls://{host}:{}", self.port)
    }

    async fn connect(&self) -> Result<Client, ConnectError> {
        let login = percent_decode_str(self.login).decode_utf8_lossy();
        let options = match login.split_once(':') {
            Some((user, password)) => {
                ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            }
            None if !login.is_empty() => ConnectOptions::with_token(login.into_owned()),
            None => ConnectOptions::new(),
        };
        match &self.authority {
            None => options.connect(self.url_as("")).await,
            Some(authority) => {
                let options = options.add_root_certificates(authority.clone());
                options.connect(self.tls_url("localhost")).await
            }
        }
    }

    /// Makes a stream of everything whose subject begins like this, or looks at the one that there is.
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

    /// Waits until so many messages are in the stream, and returns them, each checked as a strict subscriber does.
    pub(crate) async fn wait_for(&self, prefix: &str, count: u64) -> Vec<StreamMessage> {
        let mut stream = self.stream(prefix).await;
        wait::until_async("the messages are in the stream", async || {
            stream.info().await.expect("it answers").state.messages >= count
        })
        .await;
        let state = &stream.info().await.expect("it answers").state;
        let mut messages = Vec::new();
        // An empty stream begins at 0, where no message is.
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("a message");
            check(&message);
            messages.push(message);
        }
        messages
    }

    /// Kills it, at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again, with what it has stored.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.folder);
        self.wait_until_it_answers().await;
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill runs").success());
    }

    async fn wait_until_it_answers(&self) {
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

/// A header that is there.
pub(crate) fn header<'a>(message: &'a StreamMessage, name: &str) -> &'a str {
    let value = message.headers.get(name);
    value
        .unwrap_or_else(|| panic!("there is no {name}"))
        .as_str()
}

/// Fails on anything that a subscriber after the documents would refuse.
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
