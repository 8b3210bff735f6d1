//! Webhooks that come at once share a transaction, and nobody can tell: each is answered for itself, and none is lost.

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
use crate::support::app::{Answer, App, NOW, answer};
use crate::support::database::Database;
use crate::support::inbox::Inboxes;
use crate::support::signing::SECRET;
use crate::support::wait;

pub(crate) const ONE_WRITER: (&str, &str) = ("APP__DATABASE__WRITERS", "1");

/// A row's lock is waited for a twenty-fifth of this, longer than any test needs on a slow machine.
pub(crate) const PATIENT: (&str, &str) = ("APP__DATABASE__TIMEOUT_SECS", "300");

const SENDERS: usize = 64;
const WEBHOOKS_EACH: usize = 20;
const IMAGES: usize = 8;

fn uploaded(id: &str, second: usize) -> String {
    let ts = NOW + i64::try_from(second).expect("small");
    json!({"data": {"image": {"id": id, "status": "success"}}, "ts": ts, "alert_type": "image_notification"}).to_string()
}

/// Sends a webhook in a task.
fn deliver(app: &App, tasks: &mut JoinSet<(String, Answer)>, id: &str, second: usize) {
    let request = app
        .unsigned(uploaded(id, second))
        .header("cf-webhook-auth", SECRET);
    let id = id.to_owned();
    tasks.spawn(async move { (id, answer(request).await) });
}

async fn wait_until_waiting(app: &App, count: i64) {
    wait::until_async("so many webhooks wait", async || {
        app.counted("inbox_queue_depth").await == count
    })
    .await;
}

/// Waits until the writer has taken everything that waited, and is held up with it.
async fn wait_until_taken(app: &App, tasks_begun: i64) {
    wait::until_async("the writer has taken it", async || {
        app.counted("inbox_queue_depth").await == 0
            && app.counted("inbox_write_attempts_total").await >= tasks_begun
    })
    .await;
}

/// Has these recorded in one transaction, in their order, by an app with [`ONE_WRITER`] that is [`PATIENT`]; another webhook, for the image
/// `held`, keeps the writer busy until all have come. Returns what is answered to each.
pub(crate) async fn deliver_together(app: &App, bodies: Vec<String>) -> Vec<Answer> {
    app.database.register("held").await;
    let lock = app.database.hold_image("held").await;
    let begun = app.counted("inbox_write_attempts_total").await;
    let mut tasks = JoinSet::new();
    deliver(app, &mut tasks, "held", 0);
    wait_until_taken(app, begun + 1).await;
    let mut answers = Vec::new();
    for body in bodies {
        let request = app.unsigned(body).header("cf-webhook-auth", SECRET);
        answers.push(tokio::spawn(answer(request)));
        wait_until_waiting(app, i64::try_from(answers.len()).expect("small")).await;
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
async fn a_row_of_which_sqlite_makes_no_json_fails_its_own_webhook_alone() {
    let app = App::start_with(Database::sqlite(), &[ONE_WRITER, PATIENT]).await;
    for id in ["held", "blob", "good"] {
        app.database.register(id).await;
    }
    app.database
        .execute(
            "UPDATE cloudflare_images SET filename = x'ff00' WHERE cloudflare_id = $1",
            &["blob"],
        )
        .await;
    let held = app.database.hold_image("held").await;
    let mut tasks = JoinSet::new();
    deliver(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    deliver(&app, &mut tasks, "blob", 0);
    deliver(&app, &mut tasks, "good", 0);
    wait_until_waiting(&app, 2).await;

    held.release().await;

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
    what_64_senders_tell_at_once_is_all_recorded_and_the_latest_stands,
    what_one_sender_queues_for_an_image_is_recorded_in_its_order,
    a_row_that_makes_no_sense_fails_its_own_webhook_alone,
    more_than_may_wait_is_refused_at_once_and_may_be_sent_again,
    a_client_that_goes_away_changes_nothing_for_those_who_share_its_commit,
);

async fn what_64_senders_tell_at_once_is_all_recorded_and_the_latest_stands(database: Database) {
    let app = Arc::new(App::start(database).await);
    for image in 0..IMAGES {
        app.database.register(&format!("image-{image}")).await;
    }

    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let app = app.clone();
        senders.spawn(async move {
            for turn in 0..WEBHOOKS_EACH {
                let answer = app
                    .deliver(uploaded(
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
    assert_eq!(logs.len(), SENDERS * WEBHOOKS_EACH);
    for image in 0..IMAGES {
        let last = (WEBHOOKS_EACH - 1) * SENDERS + SENDERS - IMAGES + image;
        let last = Timestamp::from_unix_seconds(NOW + i64::try_from(last).expect("small"))
            .expect("a time");
        assert_eq!(
            app.database.image(&format!("image-{image}")).await["status_at"],
            last.to_string()
        );
    }
    let commits = app.counted("inbox_transactions_total").await;
    assert_eq!(
        app.counted("inbox_recorded_total").await,
        i64::try_from(SENDERS * WEBHOOKS_EACH).expect("small")
    );
    assert!(
        commits < i64::try_from(SENDERS * WEBHOOKS_EACH).expect("small"),
        "{commits} commits: some were shared"
    );
}

async fn what_one_sender_queues_for_an_image_is_recorded_in_its_order(database: Database) {
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
            // All at once: none of them waits for the one before it.
            let notifications: Vec<_> = (0..WEBHOOKS_EACH)
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
            .all(|turns| turns.iter().copied().eq(0..WEBHOOKS_EACH)),
        "{turns:?}"
    );
}

async fn a_row_that_makes_no_sense_fails_its_own_webhook_alone(database: Database) {
    let app = App::start_with(database, &[ONE_WRITER, PATIENT]).await;
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
    let held = app.database.hold_image("held").await;
    let mut tasks = JoinSet::new();
    deliver(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    for number in 0..10 {
        deliver(&app, &mut tasks, &format!("good-{number}"), 0);
    }
    deliver(&app, &mut tasks, "broken", 0);
    wait_until_waiting(&app, 11).await;

    held.release().await;

    for (id, answer) in tasks.join_all().await {
        match id.as_str() {
            "broken" => assert_eq!(answer.outcome(), (500, "internal-error")),
            _ => assert_eq!(answer.outcome(), (200, "applied"), "{id}"),
        }
    }
    let good = "SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded' AND cloudflare_id LIKE 'good-%'";
    assert_eq!(app.database.count(good).await, 10);
    assert_eq!(app.database.image("broken").await["status"], "pending");
    assert_eq!(app.counted("inbox_failed_total").await, 1);
}

async fn more_than_may_wait_is_refused_at_once_and_may_be_sent_again(database: Database) {
    let variables = [ONE_WRITER, PATIENT, ("APP__DATABASE__QUEUE_LIMIT", "2")];
    let app = App::start_with(database, &variables).await;
    for id in ["held", "a", "b", "c"] {
        app.database.register(id).await;
    }
    let held = app.database.hold_image("held").await;
    let mut tasks = JoinSet::new();
    deliver(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    deliver(&app, &mut tasks, "a", 0);
    deliver(&app, &mut tasks, "b", 0);
    wait_until_waiting(&app, 2).await;

    let refused = app.deliver(uploaded("c", 0)).await;
    held.release().await;
    let waited = tasks.join_all().await;
    let again = app.deliver(uploaded("c", 0)).await;

    assert_eq!(refused.outcome(), (503, "busy"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    for (id, answer) in &waited {
        assert_eq!(answer.outcome(), (200, "applied"), "{id}");
    }
    assert_eq!(again.outcome(), (200, "applied"));
    assert_eq!(app.counted("inbox_rejected_total").await, 1);
}

async fn a_client_that_goes_away_changes_nothing_for_those_who_share_its_commit(
    database: Database,
) {
    let app = App::start_with(database, &[ONE_WRITER, PATIENT]).await;
    for id in ["held", "gone", "stays"] {
        app.database.register(id).await;
    }
    let held = app.database.hold_image("held").await;
    let (mut tasks, mut gone) = (JoinSet::new(), JoinSet::new());
    deliver(&app, &mut tasks, "held", 0);
    wait_until_taken(&app, 1).await;
    deliver(&app, &mut gone, "gone", 0);
    deliver(&app, &mut tasks, "stays", 0);
    wait_until_waiting(&app, 2).await;

    gone.shutdown().await;
    held.release().await;
    let answers = tasks.join_all().await;
    let (ending, database) = app.stop().await;

    let stays = answers
        .iter()
        .find(|(id, _)| id == "stays")
        .expect("it was sent");
    assert_eq!(stays.1.outcome(), (200, "applied"));
    assert_eq!(ending, ExitReason::Clean);
    assert_eq!(
        database.image("gone").await["status"],
        "uploaded",
        "what was taken in is recorded"
    );
}

/// A notification that the audit trail knows again.
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
async fn a_row_that_an_app_has_locked_fails_its_own_webhook_alone() {
    let app = App::start_with(
        Database::postgres().await,
        &[ONE_WRITER, ("APP__DATABASE__TIMEOUT_SECS", "50")],
    )
    .await;
    for id in ["first", "locked", "a", "b"] {
        app.database.register(id).await;
    }
    let (first, locked) = (
        app.database.hold_image("first").await,
        app.database.hold_image("locked").await,
    );
    let mut tasks = JoinSet::new();
    deliver(&app, &mut tasks, "first", 0);
    wait_until_taken(&app, 1).await;
    for id in ["a", "locked", "b"] {
        deliver(&app, &mut tasks, id, 0);
    }
    first.release().await;

    for (id, answer) in tasks.join_all().await {
        match id.as_str() {
            "locked" => assert_eq!(answer.outcome(), (500, "internal-error")),
            // On a slow machine its lock may have been held for longer than the 2 s that it waits.
            "first" => {}
            _ => assert_eq!(answer.outcome(), (200, "applied"), "{id}"),
        }
    }
    locked.release().await;

    assert_eq!(
        app.deliver(uploaded("locked", 0)).await.outcome(),
        (200, "applied"),
        "redelivered, it is recorded"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_connection_serves_writers_and_probes_alike() {
    let variables = [("APP__DATABASE__MAX_CONNECTIONS", "1")];
    let app = App::start_with(Database::postgres().await, &variables).await;
    app.database.register("a").await;

    for second in 0..3 {
        assert_eq!(
            app.deliver(uploaded("a", second)).await.outcome(),
            (200, "applied")
        );
        assert_eq!(
            app.probe("/readyz").await.status,
            200,
            "no writer keeps the only connection"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_under_crossing_load_neither_deadlock_nor_lose_an_update() {
    let database = Database::postgres().await;
    let second = database.for_a_replica();
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
            for turn in 0..WEBHOOKS_EACH {
                // One replica goes over the images upwards, the other downwards.
                let image = if sender % 2 == 0 {
                    turn
                } else {
                    WEBHOOKS_EACH - 1 - turn
                } % IMAGES;
                let answer = app
                    .deliver(uploaded(&format!("image-{image}"), turn * SENDERS + sender))
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
    assert_eq!(database.logs().await.len(), SENDERS * WEBHOOKS_EACH);
    // The last of the applied ones is what the row says.
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
