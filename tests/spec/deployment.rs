//! The files in `deploy/`, with the real programs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Certificate, Client};
use tempfile::TempDir;

use crate::support::app::{client, response_to};
use crate::support::certificates::Identity;
use crate::support::ports::free_port;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::wait;

const PATH: &str = "/cloudflare-images/api/webhook/";

/// The name in the certificate, which the proxies serve.
const NAME: &str = "localhost";

fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A service that trusts a proxy on this machine, and the proxy in front of it.
struct Setup {
    folder: TempDir,
    service: Service,
    certificate: PathBuf,
    key: PathBuf,
    https_port: u16,
    proxy: Option<Child>,
}

impl Setup {
    fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let variables = [
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
            ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ];
        let service = Service::start(folder.path(), &variables);
        let Identity { certificate, key } = Identity::new(folder.path(), "localhost");
        Self {
            folder,
            service,
            certificate,
            key,
            https_port: free_port(),
            proxy: None,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the proxy, and checks that it passes webhooks on, with the address of the client.
    async fn assert_works_behind(&mut self, mut proxy: Command) {
        proxy.stdout(Stdio::null()).stderr(Stdio::null());
        self.proxy = Some(proxy.spawn().expect("the proxy is installed"));
        let certificate = fs::read(&self.certificate).expect("a file");
        let certificate = Certificate::from_pem(&certificate).expect("a certificate");
        // It also installs rustls's provider.
        drop(client());
        let client = Client::builder()
            .tls_certs_only([certificate])
            .no_proxy()
            .build()
            .expect("a client");
        let url = format!("https://{NAME}:{}{PATH}", self.https_port);
        wait::until_async("the proxy listens", async || {
            client.get(&url).send().await.is_ok()
        })
        .await;

        let webhook = client.post(&url).header("cf-webhook-auth", SECRET);
        // The proxy must not pass on an address that the client claims.
        let webhook = webhook.header("x-forwarded-for", "203.0.113.7");
        let webhook = response_to(webhook.body(r#"{"text":"test message"}"#)).await;
        let other = client.get(format!("https://{NAME}:{}/metrics", self.https_port));
        let other = response_to(other).await;

        assert_eq!(webhook.outcome(), (200, "test"));
        assert_eq!(other.status, 404, "only webhooks are passed on");
        wait::until("the log has the address of the client", || {
            let log = self.service.log();
            log.iter()
                .any(|line| line.contains("answered 200 test") && line.contains("127.0.0.1"))
        });
        assert!(
            !self
                .service
                .log()
                .iter()
                .any(|line| line.contains("203.0.113.7"))
        );
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ended_already = proxy.kill();
            let _status = proxy.wait();
        }
    }
}

/// Replaces a text that must be there.
fn replace(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old} is missing");
    text.replace(old, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_forwards_webhooks() {
    let mut setup = Setup::start();
    let server = deploy("nginx/webhook.conf");
    let server = replace(&server, "443", &setup.https_port.to_string());
    let server = replace(&server, "webhooks.example.com;", "localhost;");
    let server = replace(
        &server,
        "/etc/ssl/webhooks.example.com/fullchain.pem",
        &setup.certificate.display().to_string(),
    );
    let server = replace(
        &server,
        "/etc/ssl/webhooks.example.com/privkey.pem",
        &setup.key.display().to_string(),
    );
    let server = replace(&server, "8080", &setup.service.port.to_string());
    let folder = setup.folder.path().display();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
         events {{}}
         http {{
             access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
             fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
             {server}
         }}"
    );
    let file = setup.file("nginx.conf");
    fs::write(&file, configuration).expect("a file");
    let mut nginx = Command::new("nginx");
    nginx.arg("-c").arg(&file).env("PATH", PROGRAMS);

    setup.assert_works_behind(nginx).await;
}

/// Debian has nginx in a folder for administrators.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin";

#[tokio::test(flavor = "multi_thread")]
async fn caddy_forwards_webhooks() {
    let mut setup = Setup::start();
    let site = deploy("caddy/Caddyfile");
    let address = format!(
        "{{\n admin off\n auto_https disable_redirects\n}}\nhttps://localhost:{} {{\n tls {} {}",
        setup.https_port,
        setup.certificate.display(),
        setup.key.display()
    );
    let site = replace(&site, "webhooks.example.com {", &address);
    let site = replace(&site, "8080", &setup.service.port.to_string());
    let file = setup.file("Caddyfile");
    fs::write(&file, site).expect("a file");
    let mut caddy = Command::new("caddy");
    caddy
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&file)
        .env("HOME", setup.folder.path())
        .env("PATH", PROGRAMS);

    setup.assert_works_behind(caddy).await;
}

/// One of the two replicas does not run.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_forwards_webhooks_to_running_replica() {
    let mut setup = Setup::start();
    let bundle = setup.file("bundle.pem");
    let read = |path: &Path| fs::read_to_string(path).expect("a file");
    fs::write(&bundle, read(&setup.certificate) + &read(&setup.key)).expect("a file");
    let site = deploy("haproxy/haproxy.cfg");
    let site = replace(&site, ":443", &format!(":{}", setup.https_port));
    let site = replace(
        &site,
        "/etc/ssl/webhooks.example.com.pem",
        &bundle.display().to_string(),
    );
    let site = replace(
        &site,
        "127.0.0.1:8080",
        &format!("127.0.0.1:{}", setup.service.port),
    );
    let site = replace(
        &site,
        "127.0.0.2:8080",
        &format!("127.0.0.1:{}", free_port()),
    );
    let file = setup.file("haproxy.cfg");
    fs::write(&file, site).expect("a file");
    let mut haproxy = Command::new("haproxy");
    haproxy
        .arg("-db")
        .arg("-f")
        .arg(&file)
        .env("PATH", PROGRAMS);

    setup.assert_works_behind(haproxy).await;
}

#[test]
fn systemd_unit_is_hardened() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/systemd/cloudflare-images-webhook.service");

    // The threshold is ten times the exposure level.
    let analyzed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(unit)
        .output()
        .expect("systemd is installed");

    let printed = String::from_utf8_lossy(&analyzed.stdout);
    assert!(analyzed.status.success(), "{printed}");
    assert!(printed.contains("Overall exposure level"), "{printed}");
}

#[test]
fn systemd_restarts_without_limit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/systemd/cloudflare-images-webhook.service");
    let text = fs::read_to_string(&unit).expect("the unit");
    let section = text.split("[Service]").next().expect("a section");

    assert!(section.contains("\nStartLimitIntervalSec=0\n"), "{text}");
    assert!(text.contains("\nRestartSec=5\n"), "{text}");
}

/// `Type=notify` in the unit needs both messages.
#[test]
fn tells_systemd_when_it_listens_and_stops() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_mins(1)))
        .expect("a timeout");
    let receive = || {
        let mut message = [0; 1000];
        let length = socket.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("text"))];

    let mut service = Service::start(folder.path(), &variables);
    let ready = receive();
    service.signal("-TERM");
    let stopping = receive();

    assert_eq!((ready.trim(), stopping.trim()), ("READY=1", "STOPPING=1"));
    assert_eq!(service.wait().code(), Some(0));
}

#[test]
fn empty_notify_socket_counts_as_not_set() {
    let folder = TempDir::new().expect("a folder");

    let mut service = Service::start(folder.path(), &[("NOTIFY_SOCKET", "")]);
    service.signal("-TERM");
    service.wait();

    let log = service.log();
    assert!(!log.iter().any(|line| line.contains("systemd")), "{log:?}");
}
