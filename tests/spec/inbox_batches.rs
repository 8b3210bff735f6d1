//! Guarantees of every inbox, on both databases, with and without group commit. A batch is one
//! transaction with one result for each notification, as if they arrived one after another.

use std::sync::Arc;

use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::image::Status;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Content, Notification, Report, ReportedStatus, RequestInfo, UnknownImages,
};
use cloudflare_images_webhook::domain::outcome::{Outcome, RejectionReason};
use cloudflare_images_webhook::domain::precedence::Effect;
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::{Inbox, StoreError};

use crate::support::database::Database;
use crate::support::inbox::Inboxes;

/// Whether each call has its own transaction or shares one.
#[derive(Clone, Copy)]
enum CommitMode {
    Plain,
    GroupCommit,
}

/// An inbox, and the writers that it needs.
struct OpenInbox {
    inbox: Arc<dyn Inbox>,
    _inboxes: Inboxes,
}

impl OpenInbox {
    async fn record<const N: usize>(
        &self,
        notifications: [Notification; N],
    ) -> Result<Vec<Outcome>, StoreError> {
        self.inbox.record(&notifications.map(Arc::new)).await
    }
}

async fn open(database: &Database, mode: CommitMode, unknown_images: UnknownImages) -> OpenInbox {
    // The wait for a row lock lasts a 25th of this timeout, which is enough for a slow machine.
    let long_timeout = [("APP__DATABASE__TIMEOUT_SECS", "300")];
    let inboxes = Inboxes::open(database, unknown_images, &long_timeout).await;
    let inbox = match mode {
        CommitMode::Plain => &inboxes.plain,
        CommitMode::GroupCommit => &inboxes.grouped,
    };
    OpenInbox {
        inbox: Arc::clone(inbox),
        _inboxes: inboxes,
    }
}

/// Defines four tests for each listed function: on each database, with and without group commit.
macro_rules! on_every_inbox {
    ($($name:ident),+ $(,)?) => {
        $(
            mod $name {
                use super::{Database, CommitMode};

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    super::$name(Database::sqlite(), CommitMode::Plain).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite_with_group_commit() {
                    super::$name(Database::sqlite(), CommitMode::GroupCommit).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    super::$name(Database::postgres().await, CommitMode::Plain).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres_with_group_commit() {
                    super::$name(Database::postgres().await, CommitMode::GroupCommit).await;
                }
            }
        )+
    };
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds).expect("a time")
}

fn report(id: &str, seconds: i64, status: ReportedStatus) -> Notification {
    let cloudflare_id = CloudflareId::parse(id).expect("an id");
    let report = Report {
        cloudflare_id,
        status: Some(status),
        reported_at: Some(at(seconds)),
        details: ReportedDetails::default(),
    };
    Notification {
        content: Content::Report(report),
        payload: Json::empty_object(),
        received_at: at(1_000),
        request_info: RequestInfo::default(),
    }
}

fn uploaded(id: &str, seconds: i64) -> Notification {
    report(id, seconds, ReportedStatus::Uploaded { uploaded_at: None })
}

fn failed(id: &str, seconds: i64) -> Notification {
    report(
        id,
        seconds,
        ReportedStatus::Failed {
            error: "too big".into(),
        },
    )
}

fn without_image(content: Content) -> Notification {
    Notification {
        content,
        payload: Json::empty_object(),
        received_at: at(1_000),
        request_info: RequestInfo::default(),
    }
}

fn outcome_of_image(effect: Effect, status: Status) -> Outcome {
    Outcome::of_image(effect, status)
}

on_every_inbox!(
    returns_one_result_per_notification_in_order,
    applies_notifications_for_one_image_in_order,
    empty_batch_does_nothing,
    failed_batch_changes_nothing,
    creates_each_unknown_image_once,
    records_thousand_notifications_in_one_batch,
    opposite_batches_neither_deadlock_nor_lose_updates,
);

async fn returns_one_result_per_notification_in_order(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Reject).await;
    for id in ["a", "b"] {
        database.register(id).await;
    }

    let recorded = inbox
        .record([
            uploaded("b", 10),
            without_image(Content::TestMessage),
            uploaded("nobody", 10),
            failed("a", 10),
            without_image(Content::OtherAlert),
        ])
        .await
        .expect("the batch is recorded");

    assert_eq!(
        recorded,
        [
            outcome_of_image(Effect::Applied, Status::Uploaded),
            Outcome::Test,
            Outcome::Rejected(RejectionReason::UnknownImage),
            outcome_of_image(Effect::Applied, Status::Failed),
            Outcome::Ignored,
        ]
    );
    assert_eq!(
        database.log_types().await,
        [
            "webhook_received",
            "webhook_test",
            "webhook_received",
            "webhook_ignored"
        ]
    );
}

async fn applies_notifications_for_one_image_in_order(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Reject).await;
    database.register("a").await;

    let recorded = inbox
        .record([
            report("a", 5, ReportedStatus::Draft),
            uploaded("a", 10),
            uploaded("a", 10),
            failed("a", 9),
            failed("a", 11),
            uploaded("a", 12),
        ])
        .await
        .expect("the batch is recorded");

    assert_eq!(
        recorded,
        [
            outcome_of_image(Effect::Applied, Status::Draft),
            outcome_of_image(Effect::Applied, Status::Uploaded),
            outcome_of_image(Effect::Duplicate, Status::Uploaded),
            outcome_of_image(Effect::Stale, Status::Uploaded),
            outcome_of_image(Effect::Applied, Status::Failed),
            outcome_of_image(Effect::Applied, Status::Uploaded),
        ]
    );
    assert_eq!(
        database.image("a").await["uploaded_at"],
        "1970-01-01T00:00:12.000000Z"
    );
    assert_eq!(database.logs().await.len(), 6);
}

async fn empty_batch_does_nothing(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Create).await;

    assert_eq!(inbox.record([]).await.expect("the batch is recorded"), []);
    assert!(database.images_and_logs().await.is_empty());
}

async fn failed_batch_changes_nothing(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Create).await;
    database.register("broken").await;
    database
        .execute(
            "UPDATE cloudflare_images SET details_at = '\"nonsense\"' WHERE cloudflare_id = $1",
            &["broken"],
        )
        .await;
    let before = database.images_and_logs().await;

    let error = inbox
        .record([uploaded("new", 10), uploaded("broken", 10)])
        .await
        .expect_err("the row is invalid");

    assert!(
        error
            .to_string()
            .starts_with("cloudflare_images.details_at of row "),
        "{error}"
    );
    assert_eq!(database.images_and_logs().await, before);
}

async fn creates_each_unknown_image_once(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Create).await;

    let recorded = inbox
        .record([uploaded("a", 10), uploaded("b", 10), uploaded("a", 10)])
        .await
        .expect("the batch is recorded");

    assert_eq!(
        recorded,
        [
            outcome_of_image(Effect::Applied, Status::Uploaded),
            outcome_of_image(Effect::Applied, Status::Uploaded),
            outcome_of_image(Effect::Duplicate, Status::Uploaded)
        ]
    );
    assert_eq!(
        database
            .count("SELECT count(*) FROM cloudflare_images")
            .await,
        2
    );
}

async fn records_thousand_notifications_in_one_batch(database: Database, mode: CommitMode) {
    let inbox = open(&database, mode, UnknownImages::Create).await;
    let batch: Vec<_> = (0..1_000)
        .map(|number| Arc::new(uploaded(&format!("image-{number}"), number)))
        .collect();

    let recorded = inbox
        .inbox
        .record(&batch)
        .await
        .expect("the batch is recorded");

    assert!(
        recorded
            .iter()
            .all(|recorded| *recorded == outcome_of_image(Effect::Applied, Status::Uploaded))
    );
    assert_eq!(
        database
            .count("SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'")
            .await,
        1_000
    );
    assert_eq!(database.logs().await.len(), 1_000);
}

async fn opposite_batches_neither_deadlock_nor_lose_updates(database: Database, mode: CommitMode) {
    let replicas = [
        open(&database, mode, UnknownImages::Create).await,
        open(&database, mode, UnknownImages::Create).await,
    ];
    let ids: Vec<String> = (0..20).map(|number| format!("image-{number}")).collect();

    let mut running = Vec::new();
    for round in 0..20_i64 {
        for (number, replica) in replicas.iter().enumerate() {
            let mut batch: Vec<_> = ids
                .iter()
                .map(|id| {
                    Arc::new(uploaded(
                        id,
                        round * 2 + i64::try_from(number).expect("small"),
                    ))
                })
                .collect();
            if number == 1 {
                batch.reverse();
            }
            let inbox = Arc::clone(&replica.inbox);
            running.push(tokio::spawn(async move { inbox.record(&batch).await }));
        }
    }
    for batch in running {
        batch.await.expect("no panic").expect("no deadlock");
    }

    assert_eq!(database.logs().await.len(), 20 * 20 * 2);
    let last = "SELECT count(*) FROM cloudflare_images WHERE status_at = ".to_owned();
    let last = last
        + if database.is_postgres() {
            "to_timestamp(39)"
        } else {
            "'1970-01-01T00:00:39.000000Z'"
        };
    assert_eq!(database.count(&last).await, 20);
}
