//! What must hold of any request to the webhook.
//!
//! An input is a request's headers, a line each, an empty line, and the body. `{secret}`, `{hmac}`, `{timestamped}` and
//! `{standard}` in a header's value stand for the valid proof, which no fuzzer would guess.

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
use cloudflare_images_webhook::web::with_middleware;
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::signing::{hex_hmac, standard, timestamped};

/// When requests come, and what proofs with a time say.
const NOW: i64 = 1_704_110_400;

/// Valid for every scheme.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Who calls: a proxy, whose word on its client's address is taken.
const PEER: ([u8; 4], u16) = ([10, 0, 0, 1], 80);

/// What Standard Webhooks sign beside the body.
const MESSAGE_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";

/// What can be wrong with a request; a server's error is none of it.
const REFUSALS: [u16; 6] = [400, 401, 403, 404, 408, 413];

/// Sends the request, and panics when something does not hold: it is answered; never with a 5xx; without a proof always
/// with 401, or with 403 if it came from elsewhere; a refusal is a problem with a type; no answer has the secret in it; and a payload that is understood is
/// understood alike when it is read again, as what is parked will be.
///
/// Returns the answer's status.
pub fn check(input: &[u8]) -> u16 {
    let (head, body) = split(input);
    let headers = headers(head, body);
    let is_proved = headers.1;
    let answer = RUNTIME.block_on(answer(headers.0, body));

    let (status, text) = (answer.status, String::from_utf8_lossy(&answer.body));
    assert!(
        status == 200 || REFUSALS.contains(&status),
        "{status} {text}"
    );
    assert!(!text.contains(SECRET), "the secret is in the answer");
    if status != 200 {
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("it is JSON");
        assert_eq!(answer.content_type, "application/problem+json");
        assert_eq!(problem["status"], status, "{text}");
        assert!(problem["type"].is_string(), "{text}");
    }
    if !is_proved {
        assert!([401, 403].contains(&status), "there was no proof");
    }
    check_that_it_can_be_read_again(body);
    status
}

/// A fuzzer cannot forge a proof, so that one who uses none of the places for one has none, unless it wrote the secret out.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.windows(2).position(|two| two == b"\n\n");
    end.map_or((input, &[]), |end| (&input[..end], &input[end + 2..]))
}

/// The headers, and whether a proof may be among them.
fn headers(head: &[u8], body: &[u8]) -> (HeaderMap, bool) {
    let (mut headers, mut may_be_proved) = (HeaderMap::new(), false);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let mut value = line[colon + 1..].trim_ascii().to_vec();
        for (place, proof) in proofs(body) {
            value = replaced(&value, place.as_bytes(), proof.as_bytes());
        }
        // Over the wire each of them is from whoever reads the connection, and no client's to choose.
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(&value),
        ) else {
            continue;
        };
        if name != CONTENT_LENGTH {
            may_be_proved |= proofs(body)
                .iter()
                .any(|(_, proof)| contains(value.as_bytes(), proof.as_bytes()));
            headers.append(name, value);
        }
    }
    (headers, may_be_proved)
}

fn proofs(body: &[u8]) -> [(&'static str, String); 4] {
    [
        ("{secret}", SECRET.to_owned()),
        ("{hmac}", hex_hmac(SECRET, body)),
        ("{timestamped}", timestamped(SECRET, NOW, body)),
        ("{standard}", standard(SECRET, MESSAGE_ID, NOW, body)),
    ]
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    // An HMAC counts in either case of its letters, and behind any prefix.
    let part = part.split(|byte| *byte == b'=').find(|part| part.len() > 8);
    let part = part.unwrap_or_default().to_ascii_lowercase();
    let whole = whole.to_ascii_lowercase();
    whole.windows(part.len()).any(|window| window == part)
}

fn replaced(whole: &[u8], place: &[u8], proof: &[u8]) -> Vec<u8> {
    let found = whole
        .windows(place.len())
        .position(|window| window == place);
    found.map_or_else(
        || whole.to_vec(),
        |at| [&whole[..at], proof, &whole[at + place.len()..]].concat(),
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

fn check_that_it_can_be_read_again(body: &[u8]) {
    let pointers = SETTINGS.webhook.envelope.pointers();
    let Ok((content, canonical)) = payload::parse(body, &pointers) else {
        return;
    };
    let (again, same) = payload::parse(canonical.as_str().as_bytes(), &pointers)
        .expect("what was understood is understood again");
    assert_eq!((again, same), (content, canonical));
}

/// Knows every image, and has seen nothing.
struct Everything;

#[async_trait]
impl Inbox for Everything {
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
        .expect("the settings are right")
        .settings
});

static SERVICE: LazyLock<Router> = LazyLock::new(|| {
    let clock = ManualClock::at(Timestamp::from_unix_seconds(NOW).expect("a time"));
    let receiver = Receiver::new(
        &SETTINGS.webhook,
        &SETTINGS.server,
        Arc::new(Everything),
        Arc::new(clock),
        TaskTracker::new(),
    );
    let receiver = receiver.unwrap_or_else(|problem| panic!("{} {}", problem.key, problem.rule));
    with_middleware(receiver.router(&SETTINGS.webhook.path))
});

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
});
