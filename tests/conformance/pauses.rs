//! `Outbox`: pausing and resuming endpoints.

use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::{Alert, Pause, PauseProbe, Store};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, record, uploaded};
use crate::outbox::{claim, due, ids};

on_every_backend!(
    claims_nothing_while_endpoint_is_paused,
    first_pause_writes_alert,
    probes_pause_with_one_delivery_per_interval,
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

async fn first_pause_writes_alert(fixture: &Fixture) {
    let store = fixture.open().await;
    let alert = || {
        Some(Alert {
            id: "evt_1".to_owned(),
            event: "endpoint_paused",
            endpoint: "alerts",
            payload: "{}".to_owned(),
            at: at(50),
        })
    };

    let first = pause_with_alert(&store, "gone", 50, alert()).await;
    let second = pause_with_alert(&store, "gone", 60, alert()).await;

    assert!(first && !second);
    let events = fixture.database.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"], "endpoint_paused");
}

async fn probes_pause_with_one_delivery_per_interval(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10), uploaded("b", 10)]).await;
    pause(&store, "gone", 50).await;

    let too_early = claim_probe(&store, "gone", 50 + 3599).await;
    let other_reason = claim_probe(&store, "operator", 50 + 3600).await;
    let first = claim_probe(&store, "gone", 50 + 3600).await;
    let second = claim_probe(&store, "gone", 50 + 3601).await;
    let third = claim_probe(&store, "gone", 50 + 7200).await;

    assert!(too_early.is_empty() && other_reason.is_empty());
    assert_eq!((first, second, third), (vec![1], vec![], vec![2]));
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
    pause_with_alert(store, reason, seconds, None).await;
}

async fn pause_with_alert(store: &Store, reason: &str, seconds: i64, alert: Option<Alert>) -> bool {
    let pause = Pause {
        endpoint: "app",
        reason,
        now: ClockReading::Manual(at(seconds)),
        alert,
    };
    let pausing = store.outbox.pause(&pause).await;
    pausing.expect("the query succeeds")
}

async fn claim_probe(store: &Store, reason: &str, now: i64) -> Vec<i64> {
    let probe = PauseProbe {
        reason,
        interval: Duration::from_hours(1),
    };
    let claimed = store.outbox.claim_probe(&probe, &due("app", now)).await;
    ids(&claimed.expect("the query succeeds").leased)
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
