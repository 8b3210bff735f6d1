//! Clients that act like Cloudflare and an app.
//!
//! The app registers most images before their first notification, and some after it. The
//! notifications of an image are sent concurrently, in any order and to any replica. Each is sent
//! again until it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::expectations::{Image, SendResult, Sent, attempt_note};
use crate::support::database::{Database, Registrar};
use crate::support::signing::SECRET;
use crate::support::wait;

const SENDERS: usize = 8;

/// The number of images that a sender handles at once.
const IMAGES_AT_ONCE: usize = 8;

/// One image in this many is registered after its first notification.
const IMAGES_PER_LATE_IMAGE: usize = 4;

/// The wait before a sender repeats a request.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// Running senders.
pub(crate) struct Load {
    counts: Arc<Counts>,
    senders: JoinSet<Vec<Image>>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    error_responses: AtomicU64,
    no_responses: AtomicU64,
    next_url: AtomicUsize,
    is_stopped: AtomicBool,
}

/// The component that inserts the images' rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registration {
    ByApp,
    /// The service, with `unknown_images` set to `create`.
    ByService,
}

impl Load {
    /// Starts the senders. All ids start with the prefix.
    pub(crate) fn start(
        urls: &[String],
        database: &Database,
        registration: Registration,
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
                registrar: match registration {
                    Registration::ByApp => Some(database.registrar()),
                    Registration::ByService => None,
                },
                counts: counts.clone(),
            };
            senders.spawn(sender.run(format!("{prefix}-{number}")));
        }
        Self { counts, senders }
    }

    /// Returns the number of acknowledged requests.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.counts.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns the number of error responses.
    pub(crate) fn error_responses(&self) -> u64 {
        self.counts.error_responses.load(Ordering::Relaxed)
    }

    /// Returns the number of requests with an error response or no response.
    pub(crate) fn failed_requests(&self) -> u64 {
        self.error_responses() + self.counts.no_responses.load(Ordering::Relaxed)
    }

    /// Stops the senders and waits for them. Panics if a notification is never acknowledged.
    pub(crate) async fn end(self) -> Vec<Image> {
        self.counts.is_stopped.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(wait::WAIT_TIMEOUT, self.senders.join_all()).await;
        let images = ended.expect("every notification is acknowledged");
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
        while !self.counts.is_stopped.load(Ordering::Relaxed) {
            let first = images.len();
            for number in first..first + IMAGES_AT_ONCE {
                images.push(image(&prefix, number));
            }
            let block = &mut images[first..];
            if let Some(registrar) = &self.registrar {
                let (late, others) = block.split_at_mut(IMAGES_AT_ONCE / IMAGES_PER_LATE_IMAGE);
                register(registrar, others).await;
                for image in &mut *late {
                    self.post_webhook(&mut image.sent[0]).await;
                }
                register(registrar, late).await;
            }
            for image in block {
                // Parked notifications are not sent again: the service must apply them.
                let unsent = image.sent.iter_mut().filter(|sent| !sent.is_parked());
                join_all(unsent.map(|sent| self.post_webhook(sent))).await;
                // Cloudflare may send an acknowledged notification again.
                if let Some(repeated) = image.sent.iter_mut().find(|sent| !sent.is_parked()) {
                    self.post_webhook(repeated).await;
                }
            }
        }
        images
    }

    /// Sends the notification until it is acknowledged.
    async fn post_webhook(&self, sent: &mut Sent) {
        loop {
            // Uses another replica each time, like a load balancer.
            let url = self.counts.next_url.fetch_add(1, Ordering::Relaxed) % self.urls.len();
            sent.notification["note"] = attempt_note(sent.note, sent.attempts.len()).into();
            let request = self
                .client
                .post(&self.urls[url])
                .header("cf-webhook-auth", SECRET)
                .body(sent.notification.to_string());
            let status = request
                .send()
                .await
                .map(|response| response.status().as_u16());
            let (result, count) = match status {
                Ok(200) => (SendResult::Acknowledged, &self.counts.acknowledged),
                Ok(404) => (SendResult::Parked, &self.counts.acknowledged),
                Ok(500 | 503) => (SendResult::Unknown, &self.counts.error_responses),
                Ok(other) => panic!("unexpected response status {other}"),
                Err(_) => (SendResult::Unknown, &self.counts.no_responses),
            };
            sent.attempts.push(result);
            count.fetch_add(1, Ordering::Relaxed);
            if result != SendResult::Unknown {
                return;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

async fn register(registrar: &Registrar, images: &[Image]) {
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    while registrar.register(&ids).await.is_err() {
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Returns an image with three notifications. Its number determines their order.
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
        .map(|(note, notification)| Sent::new(note, with_id(notification, &id)))
        .collect();
    sent.rotate_left(number % 3);
    Image {
        id,
        last_status,
        sent,
    }
}

fn with_id(mut notification: Value, id: &str) -> Value {
    notification["id"] = id.into();
    notification
}
