//! Senders that behave as Cloudflare and an app do together: images are registered, most of them before their first notification, some
//! after it; notifications come in any order, and again until they are acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::ledger::{Image, Sent};
use crate::support::database::{Database, Registrar};
use crate::support::signing::SECRET;

const SENDERS: usize = 16;

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
    is_over: AtomicBool,
}

impl Load {
    /// Starts them. All ids begin with this.
    pub(crate) fn start(urls: &[String], database: &Database, prefix: &str) -> Self {
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
                // Each replica has its share of them.
                url: number,
                client: client.clone(),
                registrar: database.registrar(),
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

    /// Lets them come to an end. Everything that they sent is acknowledged then.
    pub(crate) async fn end(self) -> Vec<Image> {
        self.counts.is_over.store(true, Ordering::Relaxed);
        let images = self.senders.join_all().await;
        images.into_iter().flatten().collect()
    }
}

struct Sender {
    urls: Vec<String>,
    url: usize,
    client: Client,
    registrar: Registrar,
    counts: Arc<Counts>,
}

impl Sender {
    async fn run(mut self, prefix: String) -> Vec<Image> {
        let mut images: Vec<Image> = Vec::new();
        while !self.counts.is_over.load(Ordering::Relaxed) {
            let first = images.len();
            for number in first..first + IMAGES_AT_ONCE {
                images.push(image(&prefix, number));
            }
            let block = &mut images[first..];
            let (early, others) = block.split_at_mut(IMAGES_AT_ONCE / ONE_IN_EARLY);
            self.register(others).await;
            for image in &mut *early {
                self.deliver(image, 0).await;
            }
            self.register(early).await;
            for image in block {
                // Those that were parked are not sent again: they have to come by themselves.
                let next = usize::from(image.sent[0].parked > 0);
                for number in next..image.sent.len() {
                    self.deliver(image, number).await;
                }
                self.deliver(image, next).await;
            }
        }
        images
    }

    async fn register(&self, images: &[Image]) {
        let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
        while self.registrar.register(&ids).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Until it is acknowledged.
    async fn deliver(&mut self, image: &mut Image, number: usize) {
        let sent = &mut image.sent[number];
        let body = sent.notification.to_string();
        loop {
            sent.attempts += 1;
            let url = &self.urls[self.url % self.urls.len()];
            let request = self.client.post(url).header("cf-webhook-auth", SECRET);
            let answer = request.body(body.clone()).send().await;
            match answer.map(|answer| answer.status().as_u16()) {
                Ok(200) => sent.acknowledged += 1,
                Ok(404) => sent.parked += 1,
                other => {
                    let count = match other {
                        Ok(500 | 503) => &self.counts.failures,
                        Ok(other) => panic!("whatever breaks, {other} is no answer to it"),
                        Err(_) => &self.counts.unanswered,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    // A load balancer would take another replica.
                    self.url += 1;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            self.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            return;
        }
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
        .map(|(note, notification)| Sent::of(note, with(notification, &id, note)))
        .collect();
    sent.rotate_left(number % 3);
    Image {
        id,
        last_status,
        sent,
    }
}

fn with(mut notification: Value, id: &str, note: &str) -> Value {
    notification["id"] = id.into();
    notification["note"] = note.into();
    notification
}
