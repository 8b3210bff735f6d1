//! A subscriber: another app that receives events. It accepts only events that are signed as the
//! documentation says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::signing::{standard, timestamped};
use super::wait;

/// The secret that it shares with the service.
pub(crate) const RELAY_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A response of the subscriber.
#[derive(Debug, Clone)]
pub(crate) enum SubscriberResponse {
    /// A status and a short body.
    Status(u16),
    /// A status, a header and its value.
    WithHeader(u16, &'static str, String),
    /// No response.
    NoResponse,
    /// Status 200, and a body of this many bytes.
    LongBody(usize),
    /// Status 200, and a body that never ends.
    EndlessBody,
    /// Status 200, and a body that breaks off.
    TruncatedBody,
}

/// A received event.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// Returns the payload.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a message is JSON")
    }

    /// Returns the event's id from its header.
    pub(crate) fn event_id(&self) -> String {
        self.header("x-webhook-event-id").to_owned()
    }

    /// Returns a header, which must occur once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values
            .next()
            .unwrap_or_else(|| panic!("the header {name} is missing"));
        assert!(
            values.next().is_none(),
            "the header {name} occurs more than once"
        );
        value.to_str().expect("text")
    }
}

/// A running subscriber.
pub(crate) struct Subscriber {
    address: SocketAddr,
    state: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    secret: Option<String>,
    received: Mutex<Vec<Received>>,
    answers: Mutex<Answers>,
    poison: Mutex<Option<Poison>>,
}

/// An image whose events stall the subscriber.
struct Poison {
    image: String,
    is_stalled: bool,
}

/// The responses: first each of `next`, then always `then`.
struct Answers {
    next: VecDeque<SubscriberResponse>,
    then: SubscriberResponse,
}

impl Subscriber {
    /// Starts a subscriber with the tests' secret.
    pub(crate) async fn start() -> Self {
        Self::start_with(Some(RELAY_SECRET)).await
    }

    /// Starts a subscriber with this secret. Without a secret, events must not be signed.
    pub(crate) async fn start_with(secret: Option<&str>) -> Self {
        let state = Arc::new(Inner {
            secret: secret.map(str::to_owned),
            received: Mutex::default(),
            answers: Mutex::new(Answers {
                next: VecDeque::new(),
                then: SubscriberResponse::Status(200),
            }),
            poison: Mutex::default(),
        });
        let router = Router::new()
            .route("/hooks/", post(receive))
            .with_state(Arc::clone(&state));
        let (address, serving) = serve(router).await;
        Self {
            address,
            state,
            serving,
        }
    }

    /// Returns the URL for events.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks/", self.address)
    }

    /// Sets the response to all later requests.
    pub(crate) fn respond_with(&self, then: SubscriberResponse) {
        self.state.answers().then = then;
    }

    /// Sets the responses to the next requests.
    pub(crate) fn respond_first_with(&self, answers: impl IntoIterator<Item = SubscriberResponse>) {
        self.state.answers().next.extend(answers);
    }

    /// Stalls when an event of this image arrives: from then on, no request gets a response. A second call ends the stall.
    pub(crate) fn stall_on(&self, image: &str) {
        *self.state.poison() = Some(Poison {
            image: image.to_owned(),
            is_stalled: false,
        });
    }

    /// Answers all later requests, also those with events of the poisoned image.
    pub(crate) fn stop_stalling(&self) {
        *self.state.poison() = None;
    }

    /// Waits until an event of the poisoned image has arrived.
    pub(crate) async fn wait_until_stalled(&self) {
        wait::until_async("the subscriber stalls", async || self.is_stalled()).await;
    }

    /// Returns whether an event of the poisoned image has arrived.
    pub(crate) fn is_stalled(&self) -> bool {
        let poison = self.state.poison();
        poison.as_ref().is_some_and(|poison| poison.is_stalled)
    }

    /// Returns the events received so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("no panic").clone()
    }

    /// Waits for this number of events and returns them.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        wait::until_async("the subscriber has received the events", async || {
            self.received().len() >= count
        })
        .await;
        self.received()
    }
}

/// Serves this router on a free port.
pub(crate) async fn serve(router: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        axum::serve(listener, router).await.expect("it serves");
    });
    (address, serving)
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inner {
    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().expect("no panic")
    }

    fn poison(&self) -> std::sync::MutexGuard<'_, Option<Poison>> {
        self.poison.lock().expect("no panic")
    }

    /// Returns whether the subscriber stalls, now or because of this event.
    fn stalls_on(&self, received: &Received) -> bool {
        let mut poison = self.poison();
        poison.as_mut().is_some_and(|poison| {
            poison.is_stalled |= received.json()["object"]["cloudflare_id"] == *poison.image;
            poison.is_stalled
        })
    }

    /// Panics if a subscriber that follows the documentation would reject this event.
    fn check(&self, received: &Received) {
        assert_eq!(received.header("content-type"), "application/json");
        assert!(
            received
                .header("user-agent")
                .starts_with("cloudflare-images-webhook/")
        );
        let id = received.event_id();
        assert!(id.starts_with("evt_"), "{id}");
        let Some(secret) = &self.secret else {
            for name in ["x-webhook-signature", "webhook-signature"] {
                assert!(
                    !received.headers.contains_key(name),
                    "{name} without a secret"
                );
            }
            return;
        };
        if received.headers.contains_key("x-webhook-signature") {
            let timestamp = received
                .header("x-webhook-timestamp")
                .parse()
                .expect("seconds");
            let expected = timestamped(secret, timestamp, &received.body);
            assert_eq!(received.header("x-webhook-signature"), expected);
        }
        if received.headers.contains_key("webhook-signature") {
            let timestamp = received
                .header("webhook-timestamp")
                .parse()
                .expect("seconds");
            assert_eq!(received.header("webhook-id"), id);
            let expected = standard(secret, &id, timestamp, &received.body);
            let signatures = received.header("webhook-signature");
            assert!(
                signatures.split(' ').any(|one| one == expected),
                "{signatures}"
            );
        }
    }
}

async fn receive(
    State(state): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let received = Received { headers, body };
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state.check(&received)));
    if checked.is_err() {
        // The panic is in the test's output. An invalid event does not count as received.
        return status(400);
    }
    let stalls = state.stalls_on(&received);
    state.received.lock().expect("no panic").push(received);
    if stalls {
        return std::future::pending().await;
    }
    let answer = {
        let mut answers = state.answers();
        answers
            .next
            .pop_front()
            .unwrap_or_else(|| answers.then.clone())
    };
    match answer {
        SubscriberResponse::Status(code) => status(code),
        SubscriberResponse::WithHeader(code, name, value) => {
            let mut response = status(code);
            let value = value.parse().expect("a header");
            response.headers_mut().insert(name, value);
            response
        }
        SubscriberResponse::NoResponse => std::future::pending().await,
        SubscriberResponse::LongBody(bytes) => Response::new(Body::from(vec![b'x'; bytes])),
        SubscriberResponse::EndlessBody => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b".")), ()))
            });
            Response::new(Body::from_stream(drops))
        }
        SubscriberResponse::TruncatedBody => {
            let broken = futures_util::stream::unfold(false, |has_begun| async move {
                if has_begun {
                    // Wait until the first chunk has been sent.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return Some((
                        Err(std::io::Error::other(
                            "the subscriber closes the connection",
                        )),
                        true,
                    ));
                }
                Some((Ok(Bytes::from_static(b"the beginning")), true))
            });
            Response::new(Body::from_stream(broken))
        }
    }
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::from("a short body"));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}
