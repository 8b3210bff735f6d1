//! Invariants of any webhook request.
//!
//! An input has one header per line, an empty line, and the body. The placeholders `{secret}`,
//! `{hmac}`, `{timestamped}` and `{standard}` in a header stand for valid credentials, which a
//! fuzzer cannot guess.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use cloudflare_images_webhook::clock::ManualClock;
use cloudflare_images_webhook::config::{Environment, Settings, load};
use cloudflare_images_webhook::domain::image::Status;
use cloudflare_images_webhook::domain::notification::{Content, Notification};
use cloudflare_images_webhook::domain::outcome::{Outcome, RejectionReason};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::receiver::{Receiver, payload};
use cloudflare_images_webhook::store::{Inbox, StoreError};
use cloudflare_images_webhook::telemetry::metrics::WebhookMetrics;
use cloudflare_images_webhook::web::{LineLimiter, with_middleware};
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::signing::{hex_hmac, standard, timestamped};

/// The time of requests and signatures.
const NOW: i64 = 1_704_110_400;

/// Valid for every scheme.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The peer: a trusted proxy.
const PEER: ([u8; 4], u16) = ([10, 0, 0, 1], 80);

/// The message id that Standard Webhooks sign with the body.
const MESSAGE_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";

/// The statuses of refused requests. None is a server error.
const REFUSALS: [u16; 6] = [400, 401, 403, 404, 408, 413];

/// Sends the request and checks the invariants:
///
/// - The status is 200 or a client error.
/// - An unauthenticated request gets 401, or 403 from an address that is not allowed.
/// - A refusal is a problem with a type.
/// - No response contains the secret.
/// - The stored form of an accepted payload is parsed to the same content.
///
/// Returns the response's status.
pub fn check(input: &[u8]) -> u16 {
    let (head, body) = split(input);
    let headers = headers(head, body);
    let is_authenticated = headers.1;
    let answer = RUNTIME.block_on(answer(headers.0, body));

    let (status, text) = (answer.status, String::from_utf8_lossy(&answer.body));
    assert!(
        status == 200 || REFUSALS.contains(&status),
        "{status} {text}"
    );
    assert!(!text.contains(SECRET), "the secret is in the response");
    if status != 200 {
        let problem: serde_json::Value =
            serde_json::from_slice(&answer.body).expect("the problem is JSON");
        assert_eq!(answer.content_type, "application/problem+json");
        assert_eq!(problem["status"], status, "{text}");
        assert!(problem["type"].is_string(), "{text}");
    }
    if !is_authenticated {
        assert!(
            [401, 403].contains(&status),
            "an unauthenticated request got {status}"
        );
    }
    check_stored_form(body);
    status
}

/// Splits an input into its head and its body.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.windows(2).position(|two| two == b"\n\n");
    end.map_or((input, &[]), |end| (&input[..end], &input[end + 2..]))
}

/// Returns the headers, and whether a valid credential may be among them. A fuzzer cannot forge
/// one: it uses a placeholder or the literal secret.
fn headers(head: &[u8], body: &[u8]) -> (HeaderMap, bool) {
    let (mut headers, mut may_be_authenticated) = (HeaderMap::new(), false);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let mut value = line[colon + 1..].trim_ascii().to_vec();
        for (placeholder, credential) in credentials(body) {
            value = replaced(&value, placeholder.as_bytes(), credential.as_bytes());
        }
        // Skips headers that HTTP itself forbids. `Content-Length` comes from the connection.
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(&value),
        ) else {
            continue;
        };
        if name != CONTENT_LENGTH {
            may_be_authenticated |= credentials(body)
                .iter()
                .any(|(_, credential)| contains(value.as_bytes(), credential.as_bytes()));
            headers.append(name, value);
        }
    }
    (headers, may_be_authenticated)
}

fn credentials(body: &[u8]) -> [(&'static str, String); 4] {
    [
        ("{secret}", SECRET.to_owned()),
        ("{hmac}", hex_hmac(SECRET, body)),
        ("{timestamped}", timestamped(SECRET, NOW, body)),
        ("{standard}", standard(SECRET, MESSAGE_ID, NOW, body)),
    ]
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    // The service accepts an HMAC in upper or lower case and with any prefix.
    let part = part.split(|byte| *byte == b'=').find(|part| part.len() > 8);
    let part = part.unwrap_or_default().to_ascii_lowercase();
    let whole = whole.to_ascii_lowercase();
    whole.windows(part.len()).any(|window| window == part)
}

fn replaced(whole: &[u8], placeholder: &[u8], credential: &[u8]) -> Vec<u8> {
    let found = whole
        .windows(placeholder.len())
        .position(|window| window == placeholder);
    found.map_or_else(
        || whole.to_vec(),
        |at| [&whole[..at], credential, &whole[at + placeholder.len()..]].concat(),
    )
}

struct Answer {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

async fn answer(headers: HeaderMap, body: &[u8]) -> Answer {
    let mut request = Request::post(SETTINGS.webhook.path.canonical())
        .body(Body::from(body.to_vec()))
        .expect("a request");
    let proxies = SETTINGS.server.proxies();
    let client = proxies.client(SocketAddr::from(PEER), &headers);
    request.extensions_mut().insert(client);
    *request.headers_mut() = headers;
    let answer = SERVICE.clone().oneshot(request).await;
    let (head, body) = answer.unwrap_or_else(|never| match never {}).into_parts();
    let content_type = head.headers.get(CONTENT_TYPE);
    if head.status != StatusCode::OK {
        assert!(head.status.is_client_error(), "{}", head.status);
    }
    Answer {
        status: head.status.as_u16(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        body: body.collect().await.expect("a body").to_bytes().to_vec(),
    }
}

/// Sends a request with exactly these headers. Returns the status of the response.
pub fn respond(headers: HeaderMap, body: &[u8]) -> u16 {
    RUNTIME.block_on(answer(headers, body)).status
}

fn check_stored_form(body: &[u8]) {
    let pointers = SETTINGS.webhook.envelope.pointers();
    let Ok(parsed) = payload::parse(body, &pointers) else {
        return;
    };
    let stored = payload::parse(parsed.payload.as_str().as_bytes(), &pointers)
        .expect("the stored form is valid");
    assert_eq!(stored.payload, parsed.payload);
    assert_eq!(stored.content, parsed.content);
}

/// An inbox in which every image exists and nothing is a duplicate.
struct EveryImage;

#[async_trait]
impl Inbox for EveryImage {
    async fn record(
        &self,
        notifications: &[Arc<Notification>],
    ) -> Result<Vec<Outcome>, StoreError> {
        Ok(notifications
            .iter()
            .map(|notification| match &notification.content {
                Content::Report(report) if report.status.is_none() => {
                    Outcome::Rejected(RejectionReason::UnknownImage)
                }
                Content::Report(_) => Outcome::Applied(Status::Uploaded),
                Content::TestMessage => Outcome::Test,
                Content::OtherAlert => Outcome::Ignored,
                Content::Hint(_) => Outcome::Accepted(Status::Pending),
                Content::Invalid(_) => Outcome::Rejected(RejectionReason::InvalidPayload),
            })
            .collect())
    }
}

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let environment: Environment = [
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        (
            "APP__WEBHOOK__SCHEMES",
            "cf-webhook-auth,hmac,timestamped,standard",
        ),
        ("APP__SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
        (
            "APP__WEBHOOK__ALLOWED_ADDRESSES",
            "10.0.0.0/8, 203.0.113.0/24, 2001:db8::/32",
        ),
    ]
    .into_iter()
    .collect();
    load(&environment, None)
        .expect("the settings are valid")
        .settings
});

static SERVICE: LazyLock<Router> = LazyLock::new(|| {
    let clock = ManualClock::at(Timestamp::from_unix_seconds(NOW).expect("a time"));
    let receiver = Receiver::new(
        &SETTINGS.webhook,
        &SETTINGS.server,
        Arc::new(EveryImage),
        Arc::new(clock),
        TaskTracker::new(),
        WebhookMetrics::default(),
    );
    let receiver = receiver.unwrap_or_else(|problem| panic!("{} {}", problem.key, problem.rule));
    with_middleware(
        Arc::new(receiver).router(&SETTINGS.webhook.path),
        Arc::new(LineLimiter::new(0)),
    )
});

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
});
