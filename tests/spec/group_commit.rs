//! Group commit: concurrent webhooks share a transaction, and each gets its own response.

use std::sync::Arc;

use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Content, Notification, Report, ReportedStatus, RequestInfo, UnknownImages,
};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::shutdown::ExitReason;
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::on_both_databases;
use crate::support::app::{App, NOW, TestResponse, response_to};
use crate::support::database::Database;
use crate::support::inbox::Inboxes;
use crate::support::signing::SECRET;
use crate::support::wait;

pub(crate) const ONE_WRITER: (&str, &str) = ("APP__DATABASE__WRITERS", "1");

/// The wait for a row lock lasts a 25th of this timeout, which is enough for a slow machine.
pub(crate) const LONG_TIMEOUT: (&str, &str) = ("APP__DATABASE__TIMEOUT_SECS", "300");

const SENDERS: usize = 64;
const WEBHOOKS_PER_SENDER: usize = 20;
const IMAGES: usize = 8;

fn uploaded(id: &str, second: usize) -> String {
    let ts = NOW + i64::try_from(second).expect("small");
    json!({"data": {"image": {"id": id, "status": "success"}}, "ts": ts, "alert_type": "image_notification"}).to_string()
}

/// Sends a webhook in a task.
fn post_webhook(app: &App, tasks: &mut JoinSet<(String, TestResponse)>, id: &str, second: usize) {
    let request = app
        .request(uploaded(id, second))
        .header("cf-webhook-auth", SECRET);
    let id = id.to_owned();
    tasks.spawn(async move { (id, response_to(request).await) });
}

async fn wait_until_queued(app: &App, count: i64) {
    wait::until_async("the expected number of webhooks is queued", async || {
        app.metric("inbox_queue_depth").await == count
    })
    .await;
}

/// Waits until the writer has taken all queued webhooks. A lock then blocks it.
async fn wait_until_taken(app: &App, write_attempts: i64) {
    wait::until_async("the writer has taken all queued webhooks", async || {
        app.metric("inbox_queue_depth").await == 0
            && app.metric("inbox_write_attempts_total").await >= write_attempts
    })
    .await;
}

/// Records these bodies in one transaction, in order. Needs [`ONE_WRITER`] and [`LONG_TIMEOUT`]. A
/// webhook for the locked image `held` blocks the writer until all bodies are queued. Returns the
/// responses.
pub(crate) async fn post_together(app: &App, bodies: Vec<String>) -> Vec<TestResponse> {
    app.database.register("held").await;
    let lock = app.database.lock_image("held").await;
    let write_attempts = app.metric("inbox_write_attempts_total").await;
    let mut tasks = JoinSet::new();
    post_webhook(app, &mut tasks, "held", 0);
    wait_until_taken(app, write_attempts + 1).await;
    let mut answers = Vec::new();
    for body in bodies {
        let request = app.request(body).header("cf-webhook-auth", SECRET);
        answers.push(tokio::spawn(response_to(request)));
        wait_until_queued(app, i64::try_from(answers.len()).expect("small")).await;
    }

    lock.release().await;

    tasks.join_all().await;
    let answers = join_all(answers).await;
    answers
        .into_iter()
        .map(|answer| answer.expect("it ends"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_sqlite_row_fails_alone() {
    let app = App::start_with(Database::sqlite(), &[ONE_WRITER, LONG_TIMEOUT]).await;
    for id in ["held", "blob", "good"] {
        app.database.register(id).await;
    }
    app.database
        .execute(
            "UPDATE cloudflare_images SET filename = x'ff00' WHERE cloudflare_id = $1",
            &["blob"],
        )
        .await;
    let lock = app.database.lock_image("held").await;
    let mut tasks = JoinSet::new();
    post_webhook(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    post_webhook(&app, &mut tasks, "blob", 0);
    post_webhook(&app, &mut tasks, "good", 0);
    wait_until_queued(&app, 2).await;

    lock.release().await;

    for (id, answer) in tasks.join_all().await {
        let expected = if id == "blob" {
            (500, "internal-error")
        } else {
            (200, "applied")
        };
        assert_eq!(answer.outcome(), expected, "{id}");
    }
}

on_both_databases!(
    records_every_webhook_of_concurrent_senders,
    records_one_sender_in_order,
    invalid_row_fails_alone,
    rejects_over_queue_limit_with_503,
    client_disconnect_leaves_batch_intact,
);

async fn records_every_webhook_of_concurrent_senders(database: Database) {
    let app = Arc::new(App::start(database).await);
    for image in 0..IMAGES {
        app.database.register(&format!("image-{image}")).await;
    }

    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let app = app.clone();
        senders.spawn(async move {
            for turn in 0..WEBHOOKS_PER_SENDER {
                let answer = app
                    .post_webhook(uploaded(
                        &format!("image-{}", sender % IMAGES),
                        turn * SENDERS + sender,
                    ))
                    .await;
                assert!(
                    matches!(answer.outcome(), (200, "applied" | "stale")),
                    "{answer:?}"
                );
            }
        });
    }
    senders.join_all().await;

    let logs = app.database.logs().await;
    assert_eq!(logs.len(), SENDERS * WEBHOOKS_PER_SENDER);
    for image in 0..IMAGES {
        let last = (WEBHOOKS_PER_SENDER - 1) * SENDERS + SENDERS - IMAGES + image;
        let last = Timestamp::from_unix_seconds(NOW + i64::try_from(last).expect("small"))
            .expect("a time");
        assert_eq!(
            app.database.image(&format!("image-{image}")).await["status_at"],
            last.to_string()
        );
    }
    let commits = app.metric("inbox_transactions_total").await;
    assert_eq!(
        app.metric("inbox_recorded_total").await,
        i64::try_from(SENDERS * WEBHOOKS_PER_SENDER).expect("small")
    );
    assert!(
        commits < i64::try_from(SENDERS * WEBHOOKS_PER_SENDER).expect("small"),
        "expected shared commits, found {commits} commits"
    );
}

async fn records_one_sender_in_order(database: Database) {
    let inboxes = Inboxes::open(
        &database,
        UnknownImages::Create,
        &[("APP__DATABASE__WRITERS", "4")],
    )
    .await;
    let inbox = &inboxes.grouped;

    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let inbox = inbox.clone();
        senders.spawn(async move {
            // All are recorded concurrently.
            let notifications: Vec<_> = (0..WEBHOOKS_PER_SENDER)
                .map(|turn| [numbered(sender, turn)])
                .collect();
            for recorded in join_all(
                notifications
                    .iter()
                    .map(|notification| inbox.record(notification)),
            )
            .await
            {
                recorded.expect("it is recorded");
            }
        });
    }
    senders.join_all().await;

    let mut turns = vec![Vec::new(); SENDERS];
    for log in database.logs().await {
        let payload = &log["data"]["payload"];
        let number =
            |key: &str| usize::try_from(payload[key].as_u64().expect("a number")).expect("small");
        turns[number("sender")].push(number("turn"));
    }
    assert!(
        turns
            .iter()
            .all(|turns| turns.iter().copied().eq(0..WEBHOOKS_PER_SENDER)),
        "{turns:?}"
    );
}

async fn invalid_row_fails_alone(database: Database) {
    let app = App::start_with(database, &[ONE_WRITER, LONG_TIMEOUT]).await;
    for id in ["held", "broken"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..10).map(|number| format!("good-{number}")))
    {
        app.database.register(&id).await;
    }
    app.database
        .execute(
            "UPDATE cloudflare_images SET details_at = 'nonsense' WHERE cloudflare_id = $1",
            &["broken"],
        )
        .await;
    let lock = app.database.lock_image("held").await;
    let mut tasks = JoinSet::new();
    post_webhook(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    for number in 0..10 {
        post_webhook(&app, &mut tasks, &format!("good-{number}"), 0);
    }
    post_webhook(&app, &mut tasks, "broken", 0);
    wait_until_queued(&app, 11).await;

    lock.release().await;

    for (id, answer) in tasks.join_all().await {
        match id.as_str() {
            "broken" => assert_eq!(answer.outcome(), (500, "internal-error")),
            _ => assert_eq!(answer.outcome(), (200, "applied"), "{id}"),
        }
    }
    let good = "SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded' AND cloudflare_id LIKE 'good-%'";
    assert_eq!(app.database.count(good).await, 10);
    assert_eq!(app.database.image("broken").await["status"], "pending");
    assert_eq!(app.metric("inbox_failed_total").await, 1);
}

async fn rejects_over_queue_limit_with_503(database: Database) {
    let variables = [
        ONE_WRITER,
        LONG_TIMEOUT,
        ("APP__DATABASE__QUEUE_LIMIT", "2"),
    ];
    let app = App::start_with(database, &variables).await;
    for id in ["held", "a", "b", "c"] {
        app.database.register(id).await;
    }
    let lock = app.database.lock_image("held").await;
    let mut tasks = JoinSet::new();
    post_webhook(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    post_webhook(&app, &mut tasks, "a", 0);
    post_webhook(&app, &mut tasks, "b", 0);
    wait_until_queued(&app, 2).await;

    let refused = app.post_webhook(uploaded("c", 0)).await;
    lock.release().await;
    let queued = tasks.join_all().await;
    let retried = app.post_webhook(uploaded("c", 0)).await;

    assert_eq!(refused.outcome(), (503, "busy"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    for (id, answer) in &queued {
        assert_eq!(answer.outcome(), (200, "applied"), "{id}");
    }
    assert_eq!(retried.outcome(), (200, "applied"));
    assert_eq!(app.metric("inbox_rejected_total").await, 1);
}

async fn client_disconnect_leaves_batch_intact(database: Database) {
    let app = App::start_with(database, &[ONE_WRITER, LONG_TIMEOUT]).await;
    for id in ["held", "gone", "stays"] {
        app.database.register(id).await;
    }
    let lock = app.database.lock_image("held").await;
    let (mut tasks, mut gone) = (JoinSet::new(), JoinSet::new());
    post_webhook(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    post_webhook(&app, &mut gone, "gone", 0);
    post_webhook(&app, &mut tasks, "stays", 0);
    wait_until_queued(&app, 2).await;

    gone.shutdown().await;
    lock.release().await;
    let answers = tasks.join_all().await;
    let (exit_reason, database) = app.stop().await;

    let stays = answers
        .iter()
        .find(|(id, _)| id == "stays")
        .expect("it was sent");
    assert_eq!(stays.1.outcome(), (200, "applied"));
    assert_eq!(exit_reason, ExitReason::Clean);
    assert_eq!(
        database.image("gone").await["status"],
        "uploaded",
        "the queued webhook is recorded"
    );
}

/// Returns a notification whose audit log entry has the numbers of the sender and the turn.
fn numbered(sender: usize, turn: usize) -> Arc<Notification> {
    let at = Timestamp::from_unix_seconds(NOW).expect("a time");
    Arc::new(Notification {
        content: Content::Report(Report {
            cloudflare_id: CloudflareId::parse(&format!("image-{}", sender % IMAGES))
                .expect("an id"),
            status: Some(ReportedStatus::Uploaded { uploaded_at: None }),
            reported_at: Some(at),
            details: ReportedDetails::default(),
        }),
        payload: Json::from_canonical(format!(r#"{{"sender":{sender},"turn":{turn}}}"#)),
        received_at: at,
        request_info: RequestInfo::default(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_row_fails_alone() {
    let app = App::start_with(
        Database::postgres().await,
        &[ONE_WRITER, ("APP__DATABASE__TIMEOUT_SECS", "50")],
    )
    .await;
    for id in ["first", "locked", "a", "b"] {
        app.database.register(id).await;
    }
    let (first, locked) = (
        app.database.lock_image("first").await,
        app.database.lock_image("locked").await,
    );
    let mut tasks = JoinSet::new();
    post_webhook(&app, &mut tasks, "first", 0);
    wait_until_taken(&app, 1).await;
    for id in ["a", "locked", "b"] {
        post_webhook(&app, &mut tasks, id, 0);
    }
    first.release().await;

    for (id, answer) in tasks.join_all().await {
        match id.as_str() {
            "locked" => assert_eq!(answer.outcome(), (500, "internal-error")),
            // On a slow machine, the lock may outlast the 2 s that the statement waits.
            "first" => {}
            _ => assert_eq!(answer.outcome(), (200, "applied"), "{id}"),
        }
    }
    locked.release().await;

    assert_eq!(
        app.post_webhook(uploaded("locked", 0)).await.outcome(),
        (200, "applied"),
        "the redelivery is recorded"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_writer_and_probes() {
    let variables = [("APP__DATABASE__MAX_CONNECTIONS", "1")];
    let app = App::start_with(Database::postgres().await, &variables).await;
    app.database.register("a").await;

    for second in 0..3 {
        assert_eq!(
            app.post_webhook(uploaded("a", second)).await.outcome(),
            (200, "applied")
        );
        assert_eq!(
            app.get_ops("/readyz").await.status,
            200,
            "the writer releases the only connection"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_neither_deadlock_nor_lose_updates() {
    let database = Database::postgres().await;
    let second = database.for_replica();
    let replicas = [
        Arc::new(App::start(database).await),
        Arc::new(App::start(second).await),
    ];
    for image in 0..IMAGES {
        replicas[0]
            .database
            .register(&format!("image-{image}"))
            .await;
    }

    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let app = replicas[sender % 2].clone();
        senders.spawn(async move {
            for turn in 0..WEBHOOKS_PER_SENDER {
                // One replica updates the images in ascending order, the other in descending order.
                let image = if sender % 2 == 0 {
                    turn
                } else {
                    WEBHOOKS_PER_SENDER - 1 - turn
                } % IMAGES;
                let answer = app
                    .post_webhook(uploaded(&format!("image-{image}"), turn * SENDERS + sender))
                    .await;
                assert!(
                    matches!(answer.outcome(), (200, "applied" | "stale")),
                    "{answer:?}"
                );
            }
        });
    }
    senders.join_all().await;

    let database = &replicas[0].database;
    assert_eq!(database.logs().await.len(), SENDERS * WEBHOOKS_PER_SENDER);
    // The row holds the latest applied notification.
    let behind = "SELECT count(*) FROM cloudflare_images AS image WHERE extract(epoch FROM status_at)::bigint <> (
        SELECT max((log.data -> 'payload' ->> 'ts')::bigint) FROM cloudflare_image_logs AS log WHERE log.image_id = image.id)";
    assert_eq!(database.count(behind).await, 0);
    assert_eq!(
        database
            .count("SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'")
            .await,
        8
    );
}
