//! What group commit costs where there is nothing to group: one webhook after another, with and without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Content, Notification, Report, ReportedStatus, RequestInfo, UnknownImages,
};
use cloudflare_images_webhook::domain::timestamp::Timestamp;

use crate::report::Single;
use crate::support::database::Database;
use crate::support::inbox::Inboxes;
use crate::webhooks::{Shape, body};

/// How many are recorded in each way.
const WEBHOOKS: usize = 5_000;

/// For how many images.
const IMAGES: usize = 1_000;

/// Records alternately in either way, so that whatever else the machine does befalls both.
pub(crate) async fn measure(database: &Database) -> Single {
    let inboxes = Inboxes::open(database, UnknownImages::Create, &[]).await;
    let ways = [Arc::clone(&inboxes.plain), Arc::clone(&inboxes.grouped)];

    // In a task, as the service does; the main thread is no worker.
    let measured = tokio::spawn(async move {
        let mut times = [Vec::new(), Vec::new()];
        for number in 0..2 * WEBHOOKS {
            // Either way is the first at an image as often as the other.
            let way = (number + number / 2) % 2;
            let inbox = Arc::clone(&ways[way]);
            let notification = [Arc::new(notification(number))];
            let started = now();
            // Without the group commit, a task has to see to it that the client's going away changes nothing.
            let recorded = if way == 0 {
                tokio::spawn(async move { inbox.record(&notification).await })
                    .await
                    .expect("no panic")
            } else {
                inbox.record(&notification).await
            };
            let took = now() - started;
            // The first round inserts the images.
            if number >= 2 * IMAGES {
                times[way].push(took);
            }
            recorded.expect("it is recorded");
        }
        times
    });
    let [plain, grouped] = measured.await.expect("no panic").map(median);
    Single { plain, grouped }
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
