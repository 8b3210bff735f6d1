//! Another app that is told what changed: a strict one, which believes nothing that is not signed as the documents say.

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

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// This status, and a short body.
    Status(u16),
    /// This status, and this header.
    With(u16, &'static str, String),
    /// Nothing, ever.
    Silence,
    /// 200, and so many bytes.
    Long(usize),
    /// 200, and then a byte now and then for ever.
    Trickle,
    /// 200, and the announced body never comes to its end.
    BrokenOff,
}

/// A message, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// The message itself.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a message is JSON")
    }

    /// The event's id, as the header says it.
    pub(crate) fn event_id(&self) -> String {
        self.header("x-webhook-event-id").to_owned()
    }

    /// A header that is there once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values
            .next()
            .unwrap_or_else(|| panic!("there is no {name}"));
        assert!(values.next().is_none(), "{name} is there once");
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
}

/// The first of these in turn, and the last for ever.
struct Answers {
    next: VecDeque<Answer>,
    then: Answer,
}

impl Subscriber {
    /// One that takes everything that is signed with the tests' secret.
    pub(crate) async fn start() -> Self {
        Self::start_with(Some(RELAY_SECRET)).await
    }

    /// One that shares this secret, or none, in which case nothing may be signed.
    pub(crate) async fn start_with(secret: Option<&str>) -> Self {
        let state = Arc::new(Inner {
            secret: secret.map(str::to_owned),
            received: Mutex::default(),
            answers: Mutex::new(Answers {
                next: VecDeque::new(),
                then: Answer::Status(200),
            }),
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

    /// Where it wants to be called.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks/", self.address)
    }

    /// What it answers from now on.
    pub(crate) fn answer(&self, then: Answer) {
        self.state.answers().then = then;
    }

    /// What it answers first.
    pub(crate) fn answer_first(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.answers().next.extend(answers);
    }

    /// What has come so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("no panic").clone()
    }

    /// Waits until so many have come, and returns them.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        wait::until_async("the subscriber is told", async || {
            self.received().len() >= count
        })
        .await;
        self.received()
    }
}

/// Serves this on a free port.
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

    /// Fails on anything that a subscriber after the documents would refuse.
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
        // The panic is in the test's output; no message that is wrong counts as received.
        return status(400);
    }
    state.received.lock().expect("no panic").push(received);
    let answer = {
        let mut answers = state.answers();
        answers
            .next
            .pop_front()
            .unwrap_or_else(|| answers.then.clone())
    };
    match answer {
        Answer::Status(code) => status(code),
        Answer::With(code, name, value) => {
            let mut response = status(code);
            let value = value.parse().expect("a header");
            response.headers_mut().insert(name, value);
            response
        }
        Answer::Silence => std::future::pending().await,
        Answer::Long(bytes) => Response::new(Body::from(vec![b'x'; bytes])),
        Answer::Trickle => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b".")), ()))
            });
            Response::new(Body::from_stream(drops))
        }
        Answer::BrokenOff => {
            let broken = futures_util::stream::unfold(false, |has_begun| async move {
                if has_begun {
                    // Until what came before has been sent.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return Some((Err(std::io::Error::other("the subscriber dies")), true));
                }
                Some((Ok(Bytes::from_static(b"the beginning")), true))
            });
            Response::new(Body::from_stream(broken))
        }
    }
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::from("an answer that nobody reads"));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}
