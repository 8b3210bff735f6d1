//! Group commit in front of an inbox that blocks on demand and stores its batches.

use std::sync::Mutex;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::detail::ReportedDetails;
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Report, RequestInfo};
use crate::domain::outcome::RejectionReason;
use crate::domain::timestamp::Timestamp;
use crate::store::error::ErrorClass;

/// An image with an invalid row.
const POISONED: &str = "poisoned";
/// An image for which recording panics.
const PANICKING: &str = "panicking";
/// An image for which the database times out.
const SLOW: &str = "slow";
/// An image without a row.
const UNKNOWN: &str = "unknown";
/// An image at which the database connection fails.
const LAST: &str = "last";

/// The longest wait of a call.
const MAX_WAIT: Duration = Duration::from_secs(10);

struct Below {
    batches: Mutex<Vec<Vec<String>>>,
    /// The number of batches that may still be written.
    may_write: Semaphore,
}

impl Default for Below {
    fn default() -> Self {
        Self {
            batches: Mutex::default(),
            may_write: Semaphore::new(0),
        }
    }
}

#[async_trait]
impl Inbox for Below {
    async fn record(&self, notifications: &[Arc<Notification>]) -> RecordResult {
        let ids: Vec<String> = notifications
            .iter()
            .map(|notification| id(notification))
            .collect();
        self.batches.lock().expect("no panic").push(ids.clone());
        self.may_write
            .acquire()
            .await
            .expect("it stays open")
            .forget();

        let has = |wanted: &str| ids.iter().any(|id| id == wanted);
        assert!(!has(PANICKING), "on purpose");
        if has(POISONED) {
            return Err(StoreError::Undecodable {
                table: "cloudflare_images",
                column: "details_at",
                id: POISONED.to_owned(),
                reason: "is poisoned".to_owned(),
            });
        }
        if has(SLOW) {
            return Err(StoreError::OperationTimeout {
                database: "here".into(),
                action: "recording",
                deadline: MAX_WAIT,
            });
        }
        if has(LAST) {
            return Err(StoreError::Database {
                database: "here".into(),
                action: "recording",
                class: ErrorClass::Systemic,
                source: sqlx::Error::PoolTimedOut,
            });
        }
        let result = |id: &String| match id.as_str() {
            UNKNOWN => Outcome::Rejected(RejectionReason::UnknownImage),
            _ => Outcome::Ignored,
        };
        Ok(ids.iter().map(result).collect())
    }
}

fn id(notification: &Notification) -> String {
    match &notification.content {
        Content::Report(report) => report.cloudflare_id.to_string(),
        _ => "none".to_owned(),
    }
}

fn notification(id: &str) -> Arc<Notification> {
    Arc::new(Notification {
        content: Content::Report(Report {
            cloudflare_id: CloudflareId::parse(id).expect("an id"),
            status: None,
            reported_at: None,
            details: ReportedDetails::default(),
        }),
        payload: Json::empty_object(),
        received_at: Timestamp::from_unix_seconds(0).expect("a time"),
        request_info: RequestInfo::default(),
    })
}

struct Bench {
    below: Arc<Below>,
    inbox: Arc<GroupCommit>,
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

fn group_commit(below: &Arc<Below>, limits: GroupCommitLimits) -> (Arc<GroupCommit>, Vec<Writer>) {
    let below: Arc<dyn Inbox> = below.clone();
    let (inbox, writers) = GroupCommit::new(&below, limits, &InboxMetrics::default());
    (Arc::new(inbox), writers)
}

/// Lets the other tasks of this thread run.
async fn run_other_tasks() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

impl Bench {
    fn new(queue: usize, batch: usize) -> Self {
        let below = Arc::new(Below::default());
        let limits = GroupCommitLimits {
            writers: 1,
            queue,
            batch,
            max_wait: MAX_WAIT,
        };
        let (inbox, mut writers) = group_commit(&below, limits);
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writers.remove(0).run(stop.clone()));
        Self {
            below,
            inbox,
            stop,
            writer,
        }
    }

    /// Records each image in a call of its own. Waits until all calls are queued.
    async fn call(&self, ids: &[&str]) -> Vec<JoinHandle<RecordResult>> {
        let mut calls = Vec::new();
        for id in ids {
            let (inbox, notification) = (self.inbox.clone(), notification(id));
            calls.push(tokio::spawn(
                async move { inbox.record(&[notification]).await },
            ));
        }
        run_other_tasks().await;
        calls
    }

    fn let_write(&self, batches: usize) {
        self.below.may_write.add_permits(batches);
    }

    fn batches(&self) -> Vec<Vec<String>> {
        self.below.batches.lock().expect("no panic").clone()
    }
}

async fn answers(calls: Vec<JoinHandle<RecordResult>>) -> Vec<String> {
    let mut answers = Vec::new();
    for call in calls {
        answers.push(match call.await.expect("no panic") {
            Ok(recorded) => format!("{recorded:?}"),
            Err(error) => error.to_string(),
        });
    }
    answers
}

const RECORDED: &str = "[Ignored]";
const IS_POISONED: &str =
    "cloudflare_images.details_at of row poisoned cannot be decoded: the value is poisoned";
const IS_AWAY: &str = "database here: recording failed";

#[tokio::test]
async fn queued_calls_form_next_batch() {
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["a"]).await;
    calls.extend(bench.call(&["b", "c", "d"]).await);

    bench.let_write(2);

    assert_eq!(answers(calls).await, [RECORDED; 4]);
    assert_eq!(bench.batches(), [vec!["a"], vec!["b", "c", "d"]]);
}

#[tokio::test]
async fn single_call_is_written_immediately() {
    let bench = Bench::new(10, 10);
    bench.let_write(1);

    let calls = bench.call(&["a"]).await;

    assert!(calls[0].is_finished(), "nothing but turns was waited for");
    assert_eq!(bench.batches(), [["a"]]);
}

#[tokio::test]
async fn limits_calls_per_batch() {
    let bench = Bench::new(10, 2);
    let mut calls = bench.call(&["a"]).await;
    calls.extend(bench.call(&["b", "c", "d"]).await);

    bench.let_write(3);

    assert_eq!(answers(calls).await, [RECORDED; 4]);
    assert_eq!(bench.batches(), [vec!["a"], vec!["b", "c"], vec!["d"]]);
}

#[tokio::test]
async fn callers_get_their_own_results() {
    let bench = Bench::new(10, 10);
    let first = bench.call(&["first"]).await;
    let one = bench.call(&["a"]).await;
    let (inbox, three) = (bench.inbox.clone(), ["b", UNKNOWN, "c"].map(notification));
    let three = tokio::spawn(async move { inbox.record(&three).await });
    run_other_tasks().await;
    let last = bench.call(&[UNKNOWN]).await;

    bench.let_write(2);

    let calls = first
        .into_iter()
        .chain(one)
        .chain([three])
        .chain(last)
        .collect();
    assert_eq!(
        answers(calls).await,
        [
            RECORDED,
            RECORDED,
            "[Ignored, Rejected(UnknownImage), Ignored]",
            "[Rejected(UnknownImage)]"
        ]
    );
    assert_eq!(
        bench.batches(),
        [vec!["first"], vec!["a", "b", UNKNOWN, "c", UNKNOWN]]
    );
}

#[tokio::test]
async fn poisoned_call_fails_alone() {
    for (poison, error) in [
        (POISONED, IS_POISONED),
        (
            PANICKING,
            "recording notifications panicked; the panic message is in the log",
        ),
    ] {
        let bench = Bench::new(10, 10);
        let mut calls = bench.call(&["first"]).await;
        calls.extend(bench.call(&["a", poison, "b"]).await);

        bench.let_write(5);

        assert_eq!(answers(calls).await, [RECORDED, RECORDED, error, RECORDED]);
        assert_eq!(
            bench.batches(),
            [
                vec!["first"],
                vec!["a", poison, "b"],
                vec!["a"],
                vec![poison],
                vec!["b"]
            ]
        );
    }
}

#[tokio::test]
async fn single_failed_call_is_not_retried() {
    let bench = Bench::new(10, 10);
    bench.let_write(2);

    let calls = bench.call(&[POISONED]).await;

    assert_eq!(answers(calls).await, [IS_POISONED]);
    assert_eq!(bench.batches(), [[POISONED]]);
}

#[tokio::test]
async fn systemic_error_fails_batch_without_retries() {
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["first"]).await;
    calls.extend(bench.call(&["a", LAST, "b"]).await);

    bench.let_write(10);

    assert_eq!(answers(calls).await, [RECORDED, IS_AWAY, IS_AWAY, IS_AWAY]);
    assert_eq!(bench.batches().len(), 2);
}

#[tokio::test]
async fn systemic_error_stops_single_retries() {
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["first"]).await;
    calls.extend(bench.call(&[POISONED, "a", LAST, "b"]).await);

    bench.let_write(10);

    assert_eq!(
        answers(calls).await,
        [RECORDED, IS_POISONED, RECORDED, IS_AWAY, IS_AWAY]
    );
    assert_eq!(bench.batches()[2..], [[POISONED], ["a"], [LAST]]);
}

#[tokio::test]
async fn full_queue_rejects_until_it_drains() {
    let bench = Bench::new(2, 10);
    let mut calls = bench.call(&["being written"]).await;
    calls.extend(bench.call(&["a", "b"]).await);

    let refused = bench.call(&["c"]).await;

    assert!(refused[0].is_finished(), "it does not wait for room");
    assert_eq!(
        answers(refused).await,
        ["the queue of notifications is full (database.queue_limit)"]
    );
    bench.let_write(10);
    assert_eq!(answers(calls).await, [RECORDED; 3]);
    assert_eq!(answers(bench.call(&["d"]).await).await, [RECORDED]);
}

#[tokio::test]
async fn cancelled_caller_leaves_batch_intact() {
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["first"]).await;
    let gone = bench.call(&["a"]).await;
    calls.extend(bench.call(&["b"]).await);

    gone[0].abort();
    bench.let_write(2);

    assert_eq!(answers(calls).await, [RECORDED; 2]);
    assert_eq!(bench.batches(), [vec!["first"], vec!["a", "b"]]);
}

#[tokio::test]
async fn stop_writes_queued_calls_and_rejects_new() {
    let bench = Bench::new(10, 2);
    let mut calls = bench.call(&["being written"]).await;
    calls.extend(bench.call(&["a", "b", "c"]).await);

    bench.stop.cancel();
    bench.let_write(1);
    run_other_tasks().await;
    let late = bench.call(&["late"]).await;
    bench.let_write(10);
    bench.writer.await.expect("no panic");

    assert_eq!(answers(calls).await, [RECORDED; 4]);
    assert_eq!(answers(late).await, ["the service is shutting down"]);
}

#[tokio::test]
async fn idle_writer_stops_on_request() {
    let bench = Bench::new(10, 10);

    bench.stop.cancel();

    bench.writer.await.expect("no panic");
}

#[tokio::test]
async fn calls_for_one_image_share_a_writer() {
    let limits = GroupCommitLimits {
        writers: 4,
        queue: 1_000,
        batch: 10,
        max_wait: MAX_WAIT,
    };
    let (inbox, writers) = group_commit(&Arc::default(), limits);
    for number in 0..400 {
        let notification = notification(&format!("image-{}", number % 40));
        let inbox = inbox.clone();
        tokio::spawn(async move { inbox.record(&[notification]).await });
    }
    run_other_tasks().await;

    let mut writer_of = std::collections::HashMap::new();
    let mut used = 0;
    for (number, mut writer) in writers.into_iter().enumerate() {
        let mut calls = Vec::new();
        while let Ok(call) = writer.calls.try_recv() {
            calls.push(id(&call.notifications[0]));
        }
        used += usize::from(!calls.is_empty());
        for id in calls {
            assert_eq!(*writer_of.entry(id).or_insert(number), number);
        }
    }

    assert_eq!((writer_of.len(), used), (40, 4));
}

#[tokio::test]
async fn expired_call_is_not_written() {
    tokio::time::pause();
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["first"]).await;
    let late = bench.call(&["a"]).await;
    tokio::time::advance(MAX_WAIT).await;
    calls.extend(bench.call(&["b"]).await);

    bench.let_write(10);

    assert_eq!(
        answers(late).await,
        ["a notification waited in the queue for 10 s (database.timeout_secs)"]
    );
    assert_eq!(answers(calls).await, [RECORDED; 2]);
    assert_eq!(
        bench.batches(),
        [["first"], ["b"]],
        "and no transaction is begun for it"
    );
}

#[tokio::test]
async fn timeout_shrinks_batches_until_recovery() {
    let bench = Bench::new(100, 8);
    let first = bench.call(&["first"]).await;
    let slow = bench.call(&["a", "b", "c", SLOW]).await;
    let next = bench.call(&["0"; 30]).await;

    bench.let_write(100);

    assert_eq!(answers(first).await, [RECORDED]);
    // The slow batch also contains the first four of `next`. All its calls time out.
    assert_eq!(
        answers(slow).await,
        ["database here: recording took longer than 10 s (database.timeout_secs)"; 4]
    );
    let next = answers(next).await;
    let recorded = next.iter().filter(|answer| *answer == RECORDED);
    assert_eq!(recorded.count(), 26);
    let sizes: Vec<usize> = bench.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 8, 4, 8, 8, 6]);
}

#[tokio::test]
async fn limits_bytes_per_batch() {
    let bench = Bench::new(10, 10);
    let mut calls = bench.call(&["first"]).await;
    for _ in 0..4 {
        let mut large = Notification::clone(&notification("large"));
        large.payload = Json::from_canonical("x".repeat(MAX_BATCH_BYTES / 2));
        let inbox = bench.inbox.clone();
        calls.push(tokio::spawn(async move {
            inbox.record(&[Arc::new(large)]).await
        }));
    }
    run_other_tasks().await;

    bench.let_write(10);

    assert_eq!(answers(calls).await, [RECORDED; 5]);
    assert_eq!(
        bench.batches().iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 2, 2]
    );
}
