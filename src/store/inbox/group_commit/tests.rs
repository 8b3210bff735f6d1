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
/// An image for which the database is unreachable.
const UNREACHABLE: &str = "unreachable";

/// The longest wait of a call in the queue.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The inbox in which the group commit records. It stores its batches, and blocks until the test permits a batch.
struct InnerInbox {
    batches: Mutex<Vec<Vec<String>>>,
    /// The number of batches that may still be written.
    may_write: Semaphore,
}

impl Default for InnerInbox {
    fn default() -> Self {
        Self {
            batches: Mutex::default(),
            may_write: Semaphore::new(0),
        }
    }
}

#[async_trait]
impl Inbox for InnerInbox {
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
        if has(UNREACHABLE) {
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

/// A group commit with one writer, in front of an [`InnerInbox`].
struct Fixture {
    inner: Arc<InnerInbox>,
    inbox: Arc<GroupCommit>,
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

fn group_commit(
    inner: &Arc<InnerInbox>,
    limits: GroupCommitLimits,
) -> (Arc<GroupCommit>, Vec<Writer>) {
    let inner: Arc<dyn Inbox> = inner.clone();
    let (inbox, writers) = GroupCommit::new(&inner, limits, &InboxMetrics::default());
    (Arc::new(inbox), writers)
}

/// Lets the other tasks of this thread run.
async fn run_other_tasks() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

impl Fixture {
    fn new(queue: usize, batch: usize) -> Self {
        let inner = Arc::new(InnerInbox::default());
        let limits = GroupCommitLimits {
            writers: 1,
            queue,
            batch,
            max_wait: MAX_WAIT,
        };
        let (inbox, mut writers) = group_commit(&inner, limits);
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writers.remove(0).run(stop.clone()));
        Self {
            inner,
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
        self.inner.may_write.add_permits(batches);
    }

    fn batches(&self) -> Vec<Vec<String>> {
        self.inner.batches.lock().expect("no panic").clone()
    }
}

/// Returns the results of calls as text.
async fn results(calls: Vec<JoinHandle<RecordResult>>) -> Vec<String> {
    let mut results = Vec::new();
    for call in calls {
        results.push(match call.await.expect("no panic") {
            Ok(recorded) => format!("{recorded:?}"),
            Err(error) => error.to_string(),
        });
    }
    results
}

const RECORDED: &str = "[Ignored]";
const IS_POISONED: &str =
    "cloudflare_images.details_at of row poisoned cannot be decoded: the value is poisoned";
const IS_UNREACHABLE: &str = "database here: recording failed";

#[tokio::test]
async fn queued_calls_form_next_batch() {
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["a"]).await;
    calls.extend(fixture.call(&["b", "c", "d"]).await);

    fixture.let_write(2);

    assert_eq!(results(calls).await, [RECORDED; 4]);
    assert_eq!(fixture.batches(), [vec!["a"], vec!["b", "c", "d"]]);
}

#[tokio::test]
async fn single_call_is_written_immediately() {
    let fixture = Fixture::new(10, 10);
    fixture.let_write(1);

    let calls = fixture.call(&["a"]).await;

    assert!(calls[0].is_finished(), "the call waits for no timer");
    assert_eq!(fixture.batches(), [["a"]]);
}

#[tokio::test]
async fn limits_calls_per_batch() {
    let fixture = Fixture::new(10, 2);
    let mut calls = fixture.call(&["a"]).await;
    calls.extend(fixture.call(&["b", "c", "d"]).await);

    fixture.let_write(3);

    assert_eq!(results(calls).await, [RECORDED; 4]);
    assert_eq!(fixture.batches(), [vec!["a"], vec!["b", "c"], vec!["d"]]);
}

#[tokio::test]
async fn callers_get_their_own_results() {
    let fixture = Fixture::new(10, 10);
    let first = fixture.call(&["first"]).await;
    let one = fixture.call(&["a"]).await;
    let (inbox, three) = (fixture.inbox.clone(), ["b", UNKNOWN, "c"].map(notification));
    let three = tokio::spawn(async move { inbox.record(&three).await });
    run_other_tasks().await;
    let last = fixture.call(&[UNKNOWN]).await;

    fixture.let_write(2);

    let calls = first
        .into_iter()
        .chain(one)
        .chain([three])
        .chain(last)
        .collect();
    assert_eq!(
        results(calls).await,
        [
            RECORDED,
            RECORDED,
            "[Ignored, Rejected(UnknownImage), Ignored]",
            "[Rejected(UnknownImage)]"
        ]
    );
    assert_eq!(
        fixture.batches(),
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
        let fixture = Fixture::new(10, 10);
        let mut calls = fixture.call(&["first"]).await;
        calls.extend(fixture.call(&["a", poison, "b"]).await);

        fixture.let_write(5);

        assert_eq!(results(calls).await, [RECORDED, RECORDED, error, RECORDED]);
        assert_eq!(
            fixture.batches(),
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
    let fixture = Fixture::new(10, 10);
    fixture.let_write(2);

    let calls = fixture.call(&[POISONED]).await;

    assert_eq!(results(calls).await, [IS_POISONED]);
    assert_eq!(fixture.batches(), [[POISONED]]);
}

#[tokio::test]
async fn systemic_error_fails_batch_without_retries() {
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["first"]).await;
    calls.extend(fixture.call(&["a", UNREACHABLE, "b"]).await);

    fixture.let_write(10);

    assert_eq!(
        results(calls).await,
        [RECORDED, IS_UNREACHABLE, IS_UNREACHABLE, IS_UNREACHABLE]
    );
    assert_eq!(fixture.batches().len(), 2);
}

#[tokio::test]
async fn systemic_error_ends_single_retries() {
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["first"]).await;
    calls.extend(fixture.call(&[POISONED, "a", UNREACHABLE, "b"]).await);

    fixture.let_write(10);

    assert_eq!(
        results(calls).await,
        [
            RECORDED,
            IS_POISONED,
            RECORDED,
            IS_UNREACHABLE,
            IS_UNREACHABLE
        ]
    );
    assert_eq!(fixture.batches()[2..], [[POISONED], ["a"], [UNREACHABLE]]);
}

#[tokio::test]
async fn full_queue_rejects_until_it_drains() {
    let fixture = Fixture::new(2, 10);
    let mut calls = fixture.call(&["being written"]).await;
    calls.extend(fixture.call(&["a", "b"]).await);

    let refused = fixture.call(&["c"]).await;

    assert!(refused[0].is_finished(), "the call does not wait for room");
    assert_eq!(
        results(refused).await,
        ["the queue of notifications is full (database.queue_limit)"]
    );
    fixture.let_write(10);
    assert_eq!(results(calls).await, [RECORDED; 3]);
    assert_eq!(results(fixture.call(&["d"]).await).await, [RECORDED]);
}

#[tokio::test]
async fn cancelled_caller_leaves_batch_intact() {
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["first"]).await;
    let gone = fixture.call(&["a"]).await;
    calls.extend(fixture.call(&["b"]).await);

    gone[0].abort();
    fixture.let_write(2);

    assert_eq!(results(calls).await, [RECORDED; 2]);
    assert_eq!(fixture.batches(), [vec!["first"], vec!["a", "b"]]);
}

#[tokio::test]
async fn stop_writes_queued_calls_and_rejects_new() {
    let fixture = Fixture::new(10, 2);
    let mut calls = fixture.call(&["being written"]).await;
    calls.extend(fixture.call(&["a", "b", "c"]).await);

    fixture.stop.cancel();
    fixture.let_write(1);
    run_other_tasks().await;
    let late = fixture.call(&["late"]).await;
    fixture.let_write(10);
    fixture.writer.await.expect("no panic");

    assert_eq!(results(calls).await, [RECORDED; 4]);
    assert_eq!(results(late).await, ["the service is shutting down"]);
}

#[tokio::test]
async fn idle_writer_stops_on_request() {
    let fixture = Fixture::new(10, 10);

    fixture.stop.cancel();

    fixture.writer.await.expect("no panic");
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
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["first"]).await;
    let late = fixture.call(&["a"]).await;
    tokio::time::advance(MAX_WAIT).await;
    calls.extend(fixture.call(&["b"]).await);

    fixture.let_write(10);

    assert_eq!(
        results(late).await,
        ["a notification waited in the queue for more than 10 s (database.timeout_secs)"]
    );
    assert_eq!(results(calls).await, [RECORDED; 2]);
    assert_eq!(
        fixture.batches(),
        [["first"], ["b"]],
        "the expired call has no transaction"
    );
}

#[tokio::test]
async fn timeout_shrinks_batches_until_recovery() {
    let fixture = Fixture::new(100, 8);
    let first = fixture.call(&["first"]).await;
    let slow = fixture.call(&["a", "b", "c", SLOW]).await;
    let next = fixture.call(&["0"; 30]).await;

    fixture.let_write(100);

    assert_eq!(results(first).await, [RECORDED]);
    // The slow batch also contains the first four of `next`. All its calls time out.
    assert_eq!(
        results(slow).await,
        ["database here: recording took longer than 10 s (database.timeout_secs)"; 4]
    );
    let next = results(next).await;
    let recorded = next.iter().filter(|result| *result == RECORDED);
    assert_eq!(recorded.count(), 26);
    let sizes: Vec<usize> = fixture.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 8, 4, 8, 8, 6]);
}

#[tokio::test]
async fn limits_bytes_per_batch() {
    let fixture = Fixture::new(10, 10);
    let mut calls = fixture.call(&["first"]).await;
    for _ in 0..4 {
        let mut large = Notification::clone(&notification("large"));
        large.payload = Json::from_canonical("x".repeat(MAX_BATCH_BYTES / 2));
        let inbox = fixture.inbox.clone();
        calls.push(tokio::spawn(async move {
            inbox.record(&[Arc::new(large)]).await
        }));
    }
    run_other_tasks().await;

    fixture.let_write(10);

    assert_eq!(results(calls).await, [RECORDED; 5]);
    assert_eq!(
        fixture.batches().iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 2, 2]
    );
}
