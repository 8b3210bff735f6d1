//! The overhead of group commit without concurrency: one webhook after another, with and without group commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Content, Notification, Report, ReportedStatus, RequestInfo, UnknownImages,
};
use cloudflare_images_webhook::domain::timestamp::Timestamp;

use crate::report::SequentialResult;
use crate::support::database::Database;
use crate::support::inbox::Inboxes;
use crate::webhooks::{Shape, body};

/// The number of webhooks that are recorded with each inbox.
const WEBHOOKS: usize = 5_000;

/// The number of images that the webhooks are about.
const IMAGES: usize = 1_000;

/// Records webhooks with both inboxes in turns, so other load on the machine affects both.
pub(crate) async fn measure(database: &Database) -> SequentialResult {
    let inboxes = Inboxes::open(database, UnknownImages::Create, &[]).await;
    let plain_and_grouped = [Arc::clone(&inboxes.plain), Arc::clone(&inboxes.grouped)];

    // The service records in a task on a worker thread. The main thread is not a worker.
    let measured = tokio::spawn(async move {
        let mut times = [Vec::new(), Vec::new()];
        for number in 0..2 * WEBHOOKS {
            // Each inbox is the first for an image equally often.
            let index = (number + number / 2) % 2;
            let inbox = Arc::clone(&plain_and_grouped[index]);
            let notification = [Arc::new(notification(number))];
            let started = now();
            // Without group commit, the service would need a task for each webhook: a client may disconnect.
            let recorded = if index == 0 {
                tokio::spawn(async move { inbox.record(&notification).await })
                    .await
                    .expect("no panic")
            } else {
                inbox.record(&notification).await
            };
            let elapsed = now() - started;
            // The first round inserts the images.
            if number >= 2 * IMAGES {
                times[index].push(elapsed);
            }
            recorded.expect("the webhook is recorded");
        }
        times
    });
    let [plain, grouped] = measured.await.expect("no panic").map(median);
    SequentialResult { plain, grouped }
}

fn notification(number: usize) -> Notification {
    let at = Timestamp::from_unix_seconds(1_704_110_400 + i64::try_from(number).expect("small"))
        .expect("a time");
    let id = format!("image-{}", number / 2 % IMAGES);
    Notification {
        payload: Json::from_canonical(
            String::from_utf8(body(Shape::Envelope, &id, number)).expect("text"),
        ),
        content: Content::Report(Report {
            cloudflare_id: CloudflareId::parse(&id).expect("an id"),
            status: Some(ReportedStatus::Uploaded { uploaded_at: None }),
            reported_at: Some(at),
            details: ReportedDetails::default(),
        }),
        received_at: at,
        request_info: RequestInfo::default(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}
