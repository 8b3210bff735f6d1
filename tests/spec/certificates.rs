//! Certificate authorities of endpoints, token servers and NATS servers, and the proxies of the
//! environment.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::certificates::{Identity, TlsFront};
use crate::support::cluster::{Cluster, Durability};
use crate::support::database::Database;
use crate::support::nats::NatsServer;
use crate::support::program::{Service, run, stderr};
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::token_server::TokenServer;

const NO_AUTHORITY: (&str, &str) = ("SSL_CERT_FILE", "/nowhere/ca.pem");

/// Returns the address in a URL.
pub(crate) fn address(url: &str) -> SocketAddr {
    let url = url::Url::parse(url).expect("a URL");
    url.socket_addrs(|| None).expect("an address")[0]
}

/// Returns the path at which a subscriber receives events.
pub(crate) fn path(subscriber: &Subscriber) -> String {
    let url = url::Url::parse(&subscriber.url()).expect("a URL");
    url.path().to_owned()
}

/// Returns an endpoint as a setting.
pub(crate) fn endpoint(name: &str, url: &str) -> Value {
    json!({"name": name, "url": url, "secret": RELAY_SECRET})
}

/// Sends a message to an endpoint. Returns the error, or nothing if the endpoint accepted it.
pub(crate) fn test(
    folder: &Path,
    name: &str,
    endpoints: &[Value],
    variables: &[(&str, &str)],
) -> String {
    let endpoints = json!(endpoints).to_string();
    let mut all = vec![("APP__RELAY__ENDPOINTS", endpoints.as_str())];
    all.extend(variables);
    let output = run(folder, &["endpoints", "test", name], &all);
    let printed = stderr(&output);
    assert_eq!(output.status.success(), printed.is_empty(), "{printed}");
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn trusts_authorities_of_system_and_setting() {
    let folder = TempDir::new().expect("a folder");
    let identity = Identity::new(folder.path(), "company");
    let authorities = folder.path().join("authorities");
    fs::create_dir(&authorities).expect("a folder");
    fs::copy(&identity.certificate, authorities.join("company.pem")).expect("a copy");
    let authorities = authorities.display().to_string();
    let subscriber = Subscriber::start().await;
    let front = TlsFront::start(&identity, address(&subscriber.url())).await;
    let endpoints = [endpoint("app", &front.url(&path(&subscriber)))];
    let send = |variable| test(folder.path(), "app", &endpoints, &[variable]);

    let unknown = send(("SSL_CERT_DIR", "/nowhere"));

    assert!(
        unknown.contains("invalid peer certificate: UnknownIssuer"),
        "{unknown}"
    );
    for variable in [
        ("SSL_CERT_FILE", identity.ca_file().as_str()),
        ("SSL_CERT_DIR", &authorities),
        ("APP__TLS__CA_FILE", &identity.ca_file()),
    ] {
        assert_eq!(send(variable), "", "{variable:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_adds_to_authorities_of_system() {
    let folder = TempDir::new().expect("a folder");
    let (company, public) = (
        Identity::new(folder.path(), "company"),
        Identity::new(folder.path(), "public"),
    );
    let subscriber = Subscriber::start().await;
    let target = address(&subscriber.url());
    let inside = TlsFront::start(&company, target).await;
    let outside = TlsFront::start(&public, target).await;
    let endpoints = [
        endpoint("inside", &inside.url(&path(&subscriber))),
        endpoint("outside", &outside.url(&path(&subscriber))),
    ];
    let variables = [
        ("SSL_CERT_FILE", public.ca_file()),
        ("APP__TLS__CA_FILE", company.ca_file()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));

    for name in ["inside", "outside"] {
        assert_eq!(test(folder.path(), name, &endpoints, &variables), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_and_nats_servers_use_same_authorities() {
    let folder = TempDir::new().expect("a folder");
    let identity = Identity::new(folder.path(), "company");
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    let front = TlsFront::start(&identity, address(&tokens.url())).await;
    let nats = NatsServer::start_tls(&identity.certificate, &identity.key).await;
    nats.stream("cloudflare_images").await;
    let mut with_token = endpoint("app", &subscriber.url());
    with_token["auth"] = json!({
        "type": "oauth2", "client_id": "me", "client_secret": "a secret:+", "scope": "a b",
        "token_url": front.url("/token"),
    });
    let stream = endpoint("stream", &nats.tls_url("localhost"));
    let endpoints = [with_token, stream];

    for name in ["app", "stream"] {
        for (ca_file, is_trusted) in [(identity.ca_file(), true), (String::new(), false)] {
            let variables = [("APP__TLS__CA_FILE", ca_file.as_str())];
            let error = test(folder.path(), name, &endpoints, &variables);
            assert_eq!(error.is_empty(), is_trusted, "{name}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_uses_authorities_of_system() {
    let folder = TempDir::new().expect("a folder");
    let identity = Identity::new(folder.path(), "company");
    let cluster = Cluster::start(Durability::NoFsync);
    cluster.serve_tls(&identity.certificate, &identity.key);
    let database = Database::postgres_on(&cluster).await;
    let url = database.url.replace("127.0.0.1", "localhost") + "?sslmode=verify-full";
    let migrate = |authority: (&str, &str)| {
        let variables = [("DATABASE_URL", url.as_str()), authority];
        run(folder.path(), &["migrate"], &variables)
    };

    let trusted = migrate(("SSL_CERT_FILE", &identity.ca_file()));
    let unknown = migrate(("SSL_CERT_DIR", "/nowhere"));

    assert!(trusted.status.success(), "{}", stderr(&trusted));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).contains("certificate"),
        "{}",
        stderr(&unknown)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_needs_no_authority() {
    let folder = TempDir::new().expect("a folder");
    let subscriber = Subscriber::start().await;
    let endpoints = [endpoint("app", &subscriber.url())];

    assert_eq!(test(folder.path(), "app", &endpoints, &[NO_AUTHORITY]), "");
}

#[test]
fn rejects_unusable_ca_file() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("empty.pem"), "no certificate").expect("a file");
    for (file, error) in [
        (
            "/nowhere.pem",
            "tls.ca_file: cannot be read: No such file or directory",
        ),
        (
            "empty.pem",
            "tls.ca_file: has no certificate in PEM form (from APP__TLS__CA_FILE)",
        ),
    ] {
        let output = run(
            folder.path(),
            &["check-config"],
            &[("APP__TLS__CA_FILE", file)],
        );

        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(error), "{}", stderr(&output));
    }
}

#[test]
fn warns_about_missing_authorities_and_unused_proxy() {
    let missing = "no certificate authority is known, so endpoints with https:// or tls:// fail";
    let unused =
        "the service does not use the proxy of the environment; set relay.proxy_url to use one";
    let proxy = ("https_proxy", "http://user:hidden@proxy.example:3128");
    let plain = json!([endpoint("app", "http://app.example/")]).to_string();
    let encrypted = json!([endpoint("app", "https://app.example/")]).to_string();
    for (endpoints, warnings) in [
        (plain, &[unused][..]),
        (encrypted, &[missing, unused]),
        ("[]".to_owned(), &[]),
    ] {
        let folder = TempDir::new().expect("a folder");
        let variables = [NO_AUTHORITY, proxy, ("APP__RELAY__ENDPOINTS", &endpoints)];
        let mut service = Service::start(folder.path(), &variables);
        service.signal("-TERM");
        service.wait();

        let log = service.log().join("\n");
        for warning in [missing, unused] {
            assert_eq!(
                log.contains(warning),
                warnings.contains(&warning),
                "{endpoints} {log}"
            );
        }
        assert!(!log.contains("hidden"), "{log}");
    }
}

#[test]
fn warns_about_authorities_that_cannot_be_loaded() {
    let folder = TempDir::new().expect("a folder");
    let identity = Identity::new(folder.path(), "company");
    let authorities = folder.path().join("authorities");
    fs::create_dir(&authorities).expect("a folder");
    fs::copy(&identity.certificate, authorities.join("company.pem")).expect("a copy");
    let endpoints = json!([endpoint("app", "https://app.example/")]).to_string();
    let log_with = |file: &str| {
        let variables = [
            ("SSL_CERT_FILE", file),
            ("SSL_CERT_DIR", authorities.to_str().expect("text")),
            ("APP__RELAY__ENDPOINTS", &endpoints),
        ];
        let mut service = Service::start(folder.path(), &variables);
        service.signal("-TERM");
        service.wait();
        service.log().join("\n")
    };

    let warning = "some certificate authorities could not be loaded";
    let mistyped = log_with("/nowhere/ca.pem");
    assert!(
        mistyped.contains(warning) && mistyped.contains("/nowhere/ca.pem"),
        "{mistyped}"
    );
    assert!(!log_with(&identity.ca_file()).contains(warning));
}
