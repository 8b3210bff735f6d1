//! `Outbox`: pausing and resuming endpoints.

use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::Store;

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, record, uploaded};
use crate::outbox::{claim, due, ids};

on_every_backend!(
    claims_nothing_while_endpoint_is_paused,
    second_pause_leaves_first_reason,
    resumes_with_matching_reason_only,
    resumes_with_any_reason,
);

async fn claims_nothing_while_endpoint_is_paused(fixture: &Fixture) {
    let store = fixture.open_for(&["app", "archive"]).await;
    record(&store, [uploaded("a", 10)]).await;
    pause(&store, "operator", 50).await;

    let paused = claim(&store, due("app", 100)).await;
    let other = claim(&store, due("archive", 100)).await;
    resume(&store, None).await;
    let resumed = claim(&store, due("app", 100)).await;

    assert!(paused.is_empty());
    assert_eq!(ids(&other), [2]);
    assert_eq!(ids(&resumed), [1]);
}

async fn second_pause_leaves_first_reason(fixture: &Fixture) {
    let store = fixture.open().await;

    pause(&store, "gone", 50).await;
    pause(&store, "operator", 60).await;

    assert_eq!(paused(&store).await, Some((at(50), "gone".to_owned())));
}

async fn resumes_with_matching_reason_only(fixture: &Fixture) {
    let store = fixture.open().await;
    pause(&store, "gone", 50).await;

    let with_other_reason = resume(&store, Some("operator")).await;
    let paused_after = paused(&store).await;
    let with_same_reason = resume(&store, Some("gone")).await;

    assert!(!with_other_reason);
    assert_eq!(paused_after, Some((at(50), "gone".to_owned())));
    assert!(with_same_reason);
    assert_eq!(paused(&store).await, None);
}

async fn resumes_with_any_reason(fixture: &Fixture) {
    let store = fixture.open().await;

    let never_paused = resume(&store, None).await;
    pause(&store, "gone", 50).await;
    let first = resume(&store, None).await;
    let second = resume(&store, None).await;
    pause(&store, "operator", 60).await;

    assert_eq!([never_paused, first, second], [false, true, false]);
    assert_eq!(paused(&store).await, Some((at(60), "operator".to_owned())));
}

async fn pause(store: &Store, reason: &str, seconds: i64) {
    let pausing = store.outbox.pause("app", reason, at(seconds)).await;
    pausing.expect("the query succeeds");
}

async fn resume(store: &Store, reason: Option<&str>) -> bool {
    let resuming = store.outbox.resume("app", reason).await;
    resuming.expect("the query succeeds")
}

/// Returns the time and the reason of the endpoint's pause.
async fn paused(store: &Store) -> Option<(Timestamp, String)> {
    let states = store.delivery_catalog.endpoint_states().await;
    let state = states.expect("the query succeeds").pop()?;
    Some((state.paused_at?, state.pause_reason))
}
