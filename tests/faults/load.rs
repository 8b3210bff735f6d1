//! Senders that behave as Cloudflare and an app do together: images are registered, most of them before their first notification, some
//! after it; an image's notifications come at once, in any order, at any replica, and again until they are acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::expectations::{Answered, Image, Sent, mark};
use crate::support::database::{Database, Registrar};
use crate::support::signing::SECRET;
use crate::support::wait;

const SENDERS: usize = 8;

/// How many images a sender has at hand.
const IMAGES_AT_ONCE: usize = 8;

/// One image in so many is registered only after its first notification.
const ONE_IN_EARLY: usize = 4;

/// How long a sender waits after it was not acknowledged.
const PAUSE: Duration = Duration::from_millis(5);

/// Running senders.
pub(crate) struct Load {
    counts: Arc<Counts>,
    senders: JoinSet<Vec<Image>>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    failures: AtomicU64,
    unanswered: AtomicU64,
    next_url: AtomicUsize,
    is_over: AtomicBool,
}

/// Who inserts the images' rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registering {
    /// An app.
    ByAnApp,
    /// The service, with the policy `create`.
    ByTheService,
}

impl Load {
    /// Starts them. All ids begin with this.
    pub(crate) fn start(
        urls: &[String],
        database: &Database,
        registering: Registering,
        prefix: &str,
    ) -> Self {
        let counts = Arc::<Counts>::default();
        let client = Client::builder()
            .timeout(Duration::from_mins(1))
            .no_proxy()
            .build()
            .expect("a client");
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let sender = Sender {
                urls: urls.to_vec(),
                client: client.clone(),
                registrar: match registering {
                    Registering::ByAnApp => Some(database.registrar()),
                    Registering::ByTheService => None,
                },
                counts: counts.clone(),
            };
            senders.spawn(sender.run(format!("{prefix}-{number}")));
        }
        Self { counts, senders }
    }

    /// How many requests were acknowledged by now.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.counts.acknowledged.load(Ordering::Relaxed)
    }

    /// How many were answered with an error by now.
    pub(crate) fn failures(&self) -> u64 {
        self.counts.failures.load(Ordering::Relaxed)
    }

    /// How many were answered with an error by now, or with nothing.
    pub(crate) fn troubles(&self) -> u64 {
        self.failures() + self.counts.unanswered.load(Ordering::Relaxed)
    }

    /// Lets them come to an end. Everything that they sent is acknowledged then, or this panics: something is never acknowledged.
    pub(crate) async fn end(self) -> Vec<Image> {
        self.counts.is_over.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(wait::PATIENCE, self.senders.join_all()).await;
        let images = ended.expect("everything that was sent becomes acknowledged");
        images.into_iter().flatten().collect()
    }
}

struct Sender {
    urls: Vec<String>,
    client: Client,
    registrar: Option<Registrar>,
    counts: Arc<Counts>,
}

impl Sender {
    async fn run(self, prefix: String) -> Vec<Image> {
        let mut images: Vec<Image> = Vec::new();
        while !self.counts.is_over.load(Ordering::Relaxed) {
            let first = images.len();
            for number in first..first + IMAGES_AT_ONCE {
                images.push(image(&prefix, number));
            }
            let block = &mut images[first..];
            if let Some(registrar) = &self.registrar {
                let (early, others) = block.split_at_mut(IMAGES_AT_ONCE / ONE_IN_EARLY);
                register(registrar, others).await;
                for image in &mut *early {
                    self.deliver(&mut image.sent[0]).await;
                }
                register(registrar, early).await;
            }
            for image in block {
                // Those that were parked are not sent again: they have to come by themselves.
                let unsent = image.sent.iter_mut().filter(|sent| !sent.is_parked());
                join_all(unsent.map(|sent| self.deliver(sent))).await;
                if let Some(again) = image.sent.iter_mut().find(|sent| !sent.is_parked()) {
                    self.deliver(again).await;
                }
            }
        }
        images
    }

    /// Until it is acknowledged.
    async fn deliver(&self, sent: &mut Sent) {
        loop {
            // As a load balancer does, which takes another replica each time.
            let url = self.counts.next_url.fetch_add(1, Ordering::Relaxed) % self.urls.len();
            sent.notification["note"] = mark(sent.note, sent.tries.len()).into();
            let request = self
                .client
                .post(&self.urls[url])
                .header("cf-webhook-auth", SECRET)
                .body(sent.notification.to_string());
            let status = request.send().await.map(|answer| answer.status().as_u16());
            let (answered, count) = match status {
                Ok(200) => (Answered::Acknowledged, &self.counts.acknowledged),
                Ok(404) => (Answered::Parked, &self.counts.acknowledged),
                Ok(500 | 503) => (Answered::Unknown, &self.counts.failures),
                Ok(other) => panic!("whatever breaks, {other} is no answer to it"),
                Err(_) => (Answered::Unknown, &self.counts.unanswered),
            };
            sent.tries.push(answered);
            count.fetch_add(1, Ordering::Relaxed);
            if answered != Answered::Unknown {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn register(registrar: &Registrar, images: &[Image]) {
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    while registrar.register(&ids).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Three notifications of one image, in an order that its number decides.
fn image(prefix: &str, number: usize) -> Image {
    let id = format!("{prefix}-{number}");
    let draft = json!({"draft": true, "uploaded": "2024-01-01T12:00:00Z"});
    let (earlier, later, last_status) = if number.is_multiple_of(2) {
        (
            json!({"error": "too big", "timestamp": "2024-01-01T12:01:00Z"}),
            json!({"uploaded": "2024-01-01T12:02:00Z"}),
            "uploaded",
        )
    } else {
        (
            json!({"uploaded": "2024-01-01T12:01:00Z"}),
            json!({"error": "too big", "timestamp": "2024-01-01T12:02:00Z"}),
            "failed",
        )
    };
    let mut sent: Vec<Sent> = [("draft", draft), ("earlier", earlier), ("later", later)]
        .into_iter()
        .map(|(note, notification)| Sent::of(note, with(notification, &id)))
        .collect();
    sent.rotate_left(number % 3);
    Image {
        id,
        last_status,
        sent,
    }
}

fn with(mut notification: Value, id: &str) -> Value {
    notification["id"] = id.into();
    notification
}
