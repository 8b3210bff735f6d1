//! The proxy through which HTTP endpoints and token servers are called.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::json;
use tempfile::TempDir;

use crate::certificates::{address, endpoint, path, test};
use crate::support::certificates::{Identity, TlsFront};
use crate::support::outbound_proxies::{OutboundProxy, USER};
use crate::support::program::{run, stderr};
use crate::support::subscriber::Subscriber;
use crate::support::token_server::TokenServer;

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_called_through_proxy() {
    let folder = TempDir::new().expect("a folder");
    let identity = Identity::new(folder.path(), "company");
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    let front = TlsFront::start(&identity, address(&subscriber.url())).await;
    let plain = subscriber.url().replace("127.0.0.1", "localhost");
    let mut with_token = endpoint("with-token", &plain);
    with_token["auth"] = json!({
        "type": "oauth2", "client_id": "me", "client_secret": "a secret:+", "scope": "a b",
        "token_url": tokens.url(),
    });
    let encrypted = endpoint("encrypted", &front.url(&path(&subscriber)));
    let endpoints = [endpoint("plain", &plain), encrypted, with_token];
    let file = folder.path().join("proxy_url");
    let (ca_file, url_file) = (identity.ca_file(), file.display().to_string());
    let variables = [
        ("APP__TLS__CA_FILE", ca_file.as_str()),
        ("APP__RELAY__PROXY_URL_FILE", &url_file),
    ];

    for proxy in [OutboundProxy::http(), OutboundProxy::socks5()] {
        for name in ["plain", "encrypted", "with-token"] {
            let send = |user| {
                fs::write(&file, proxy.url(user)).expect("a file");
                test(folder.path(), name, &endpoints, &variables)
            };

            let (accepted, refused) = (send(USER), send("images:hidden"));

            assert_eq!(accepted, "", "{name}");
            assert_ne!(refused, "", "{name}");
            assert!(!refused.contains("hidden"), "{refused}");
            assert!(refused.contains("through relay.proxy_url: "), "{refused}");
            let advice = "check the user, the password and the rules of the proxy";
            // tinyproxy answers 401 to a request that it forwards, as an endpoint could.
            let is_told =
                refused.contains(advice) || refused.contains(" or the proxy answered 401");
            assert!(is_told, "{name}: {refused}");
        }
    }
}

#[test]
fn refusal_of_proxy_fails_attempt() {
    let folder = TempDir::new().expect("a folder");
    let proxy = OutboundProxy::http();
    let url = proxy.url(USER);
    // The proxy itself may have a private address.
    let variables = [
        ("APP__RELAY__PROXY_URL", url.as_str()),
        ("APP__RELAY__DENY_PRIVATE", "true"),
    ];
    let endpoints = [
        endpoint("plain", "http://refused.example/"),
        endpoint("encrypted", "https://refused.example/"),
    ];

    let plain = test(folder.path(), "plain", &endpoints, &variables);
    let encrypted = test(folder.path(), "encrypted", &endpoints, &variables);

    // The proxy answers 403, or closes the connection before that.
    assert!(plain.contains("through relay.proxy_url: "), "{plain}");
    let error = "through relay.proxy_url: error sending request";
    assert!(encrypted.contains(error), "{encrypted}");
}

#[test]
fn only_407_is_answer_of_proxy() {
    for (status, error) in [
        (
            "407 Proxy Authentication Required",
            "through relay.proxy_url: the proxy answered 407 Proxy Authentication Required; check the user, the password",
        ),
        (
            "410 Gone",
            "through relay.proxy_url: the endpoint or the proxy answered 410 Gone",
        ),
    ] {
        let folder = TempDir::new().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = format!("http://{}", listener.local_addr().expect("an address"));
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = [0; 16 * 1024];
            let _length = stream.read(&mut head).expect("a request");
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).expect("it is sent");
        });
        let endpoints = [endpoint("plain", "http://app.example/")];

        let variables = [("APP__RELAY__PROXY_URL", proxy.as_str())];
        let printed = test(folder.path(), "plain", &endpoints, &variables);

        answering.join().expect("no panic");
        assert!(printed.contains(error), "{printed}");
    }
}

#[test]
fn names_are_checked_before_proxy() {
    let folder = TempDir::new().expect("a folder");
    for (url, deny_private, error) in [
        (
            "http://metadata.google.internal/",
            "false",
            "url has a denied address",
        ),
        (
            "http://169.254.169.254/",
            "false",
            "url has a denied address",
        ),
        ("http://app.localhost/", "true", "url has a denied address"),
        ("http://app.localhost/", "false", ""),
        ("http://redis:6379/", "true", "url has a denied address"),
        ("http://redis:6379/", "false", ""),
        (
            "http://api.default.svc/",
            "true",
            "url has a denied address",
        ),
    ] {
        let endpoints = json!([endpoint("app", url)]).to_string();
        let variables = [
            ("APP__RELAY__ENDPOINTS", endpoints.as_str()),
            ("APP__RELAY__PROXY_URL", "http://proxy.example:3128"),
            ("APP__RELAY__DENY_PRIVATE", deny_private),
        ];
        let output = run(folder.path(), &["check-config"], &variables);

        assert_eq!(output.status.success(), error.is_empty(), "{url}");
        assert!(stderr(&output).contains(error), "{}", stderr(&output));
    }
}

#[test]
fn rejects_unusable_proxy_url() {
    let folder = TempDir::new().expect("a folder");
    for url in [
        "ftp://hidden@proxy.example",
        "proxy.example:3128",
        "http://proxy.example/hidden",
        "http://",
    ] {
        let output = run(
            folder.path(),
            &["check-config"],
            &[("APP__RELAY__PROXY_URL", url)],
        );

        let printed = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(
            printed.contains("relay.proxy_url: must be a URL such as"),
            "{printed}"
        );
        assert!(!printed.contains("hidden"), "{printed}");
    }
}
