//! The log: one line for each request, with the fields that an operator needs and without secrets.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::{client, response_to};
use crate::support::cluster::{Cluster, Durability};
use crate::support::program::{Service, run};
use crate::support::signing::{PREVIOUS_SECRET, SECRET, hex_hmac};
use crate::support::wait;

const SECRETS: [(&str, &str); 2] = [
    ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ("CLOUDFLARE_WEBHOOK_SECRET_PREVIOUS", PREVIOUS_SECRET),
];

/// Stops the service and returns the JSON lines that it has logged.
fn lines(mut service: Service) -> Vec<Value> {
    service.signal("-TERM");
    service.wait();
    service
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

/// Returns the lines of requests, without those that check whether the service has started.
fn requests(lines: &[Value]) -> Vec<&Value> {
    lines
        .iter()
        .filter(|line| line["method"].is_string() && line["path"] != "/")
        .collect()
}

#[tokio::test]
async fn logs_one_line_per_webhook() {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), &["images", "add", "an/image"], &[]);
    let service = Service::start(folder.path(), &SECRETS);
    let post = |body: &'static str| {
        client()
            .post(service.url())
            .header("x-request-id", "request-7")
            .body(body)
    };

    response_to(
        post(r#"{"id":"an/image","uploaded":"2024-01-01T12:00:00Z"}"#)
            .header("cf-webhook-auth", SECRET),
    )
    .await;
    response_to(
        post(r#"{"id":"nobody","uploaded":"2024-01-01T12:00:00Z"}"#)
            .header("cf-webhook-auth", SECRET),
    )
    .await;
    response_to(post("nonsense").header("cf-webhook-auth", SECRET)).await;
    response_to(post("nonsense")).await;

    let lines = lines(service);
    let requests = requests(&lines);
    let fields: Vec<_> = requests
        .iter()
        .map(|line| {
            (
                line["status"].as_u64().unwrap(),
                line["outcome"].as_str().unwrap(),
                line["image_id"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        fields,
        [
            (200, "applied", Some("an/image")),
            (404, "unknown-image", Some("nobody")),
            (400, "invalid-payload", None),
            (401, "unauthorized", None)
        ]
    );
    assert_eq!(
        requests[2]["detail"], "The body is not JSON: expected ident at line 1 column 2.",
        "the log contains the detail of the response"
    );
    for line in requests {
        assert_eq!(
            (&line["method"], &line["path"], &line["request_id"]),
            (
                &"POST".into(),
                &"/cloudflare-images/api/webhook/".into(),
                &"request-7".into()
            )
        );
        assert!(
            line["duration_ms"]
                .as_f64()
                .is_some_and(|milliseconds| milliseconds > 0.0),
            "{line}"
        );
        assert!(
            line["client"]
                .as_str()
                .is_some_and(|client| client.starts_with("127.0.0.1:")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn never_logs_secrets_signatures_or_bodies() {
    let folder = TempDir::new().expect("a folder");
    run(folder.path(), &["images", "add", "image"], &[]);
    let variables: Vec<_> = SECRETS.into_iter().chain([("RUST_LOG", "trace")]).collect();
    let service = Service::start(folder.path(), &variables);
    let body = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z","metadata":{"private":"PRIVATE-IN-THE-BODY"}}"#;
    let signature = hex_hmac(SECRET, body.as_bytes());

    for (name, value) in [
        ("cf-webhook-auth", SECRET),
        ("cf-webhook-auth", "REJECTED-GUESS"),
        ("x-signature", &signature),
        ("x-signature", PREVIOUS_SECRET),
    ] {
        response_to(client().post(service.url()).header(name, value).body(body)).await;
    }
    response_to(
        client()
            .post(service.url())
            .header("cf-webhook-auth", SECRET)
            .body(r#"{"PRIVATE-IN-THE-BODY": nonsense"#),
    )
    .await;

    let log = lines(service)
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    assert!(log.contains("answered 200 applied"));
    assert!(
        log.contains("\"target\":\"sqlx::query\""),
        "the log level is trace"
    );
    for private in [
        SECRET,
        PREVIOUS_SECRET,
        "REJECTED-GUESS",
        "PRIVATE-IN-THE-BODY",
        &signature,
    ] {
        assert!(!log.contains(private), "{private} is in the log");
    }
}

#[tokio::test]
async fn logs_5xx_with_cause_chain() {
    let folder = TempDir::new().expect("a folder");
    let cluster = Cluster::start(Durability::NoFsync);
    let url = cluster
        .url("postgres")
        .replace("postgres@", "postgres:PASSWORD@");
    let variables: Vec<_> = SECRETS
        .into_iter()
        .chain([
            ("DATABASE_URL", url.as_str()),
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
        ])
        .collect();
    let service = Service::start(folder.path(), &variables);
    cluster.stop();

    let answer = response_to(
        client()
            .post(service.url())
            .header("cf-webhook-auth", SECRET)
            .body(r#"{"text":"test message"}"#),
    )
    .await;
    let readiness = client()
        .get(format!("http://127.0.0.1:{}/readyz", service.ops_port))
        .send()
        .await
        .expect("an answer");

    assert_eq!(
        (answer.status.as_u16(), readiness.status().as_u16()),
        (500, 503)
    );
    assert!(
        !answer.body.to_string().contains("onnection"),
        "the response contains the cause: {}",
        answer.body
    );
    let lines = lines(service);
    let line = requests(&lines)[0];
    assert_eq!(
        (&line["level"], &line["status"]),
        (&"ERROR".into(), &500.into())
    );
    let cause = line["cause"].as_str().expect("a cause");
    assert!(
        cause.starts_with("database 127.0.0.1:")
            && cause.contains(": recording notifications failed: "),
        "{cause}"
    );
    assert!(cause.contains("Connection refused"), "{cause}");
    let not_ready = requests(&lines)[1];
    assert_eq!(
        (&not_ready["level"], &not_ready["outcome"]),
        (&"ERROR".into(), &"not-ready".into())
    );
    assert!(
        not_ready["cause"]
            .to_string()
            .contains("Connection refused"),
        "{not_ready}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.to_string().contains("PASSWORD"))
    );
}

#[tokio::test]
async fn logs_disconnected_client() {
    use tokio::io::AsyncWriteExt;

    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &SECRETS);
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", service.port))
        .await
        .expect("the service listens");
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncf-webhook-auth: {SECRET}\r\ncontent-length: 100\r\n\r\nhalf",
        crate::support::app::PATH
    );
    stream
        .write_all(head.as_bytes())
        .await
        .expect("the request is sent");
    stream.shutdown().await.expect("the connection closes");
    drop(stream);

    wait::until("the request is logged", || {
        service.log().iter().any(|line| line.contains("\"POST\""))
    });
    let lines = lines(service);
    let outcome = requests(&lines)[0]["outcome"]
        .as_str()
        .expect("an outcome")
        .to_owned();
    assert!(
        ["client-gone", "invalid-payload"].contains(&outcome.as_str()),
        "{outcome}"
    );
}

#[test]
fn text_format_is_configurable() {
    let folder = TempDir::new().expect("a folder");
    let mut service = Service::start(folder.path(), &[("APP__LOG__FORMAT", "text")]);
    service.signal("-TERM");
    service.wait();

    let log = service.log();
    assert!(
        log.iter().any(|line| line.contains("INFO")
            && line.contains("listening for webhooks on http://127.0.0.1:")),
        "{log:?}"
    );
    assert!(
        log.iter()
            .any(|line| line.contains("WARN") && line.contains("no webhook secret is configured")),
        "{log:?}"
    );
}
