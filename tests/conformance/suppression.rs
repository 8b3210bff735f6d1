//! Rows that a trigger suppresses: each operation notices them.

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::delivery::DeliveryStatus;
use cloudflare_images_webhook::domain::image::NewImage;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::outcome::RejectionReason;
use cloudflare_images_webhook::store::{
    Alert, Claim, FinishedAttempt, LeaseResult, NextState, Pause, PrunableTable, PruneMode,
    PruneQuery, RefusalCount, Settlement, Store, StoreError, Unsent,
};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, image_id, record, uploaded};
use crate::outbox::{
    attempted, claim, due, find, ids, open_with_ordered_endpoint, settle, settlement, with_lease,
};
use crate::support::suppression::Suppression;

on_every_backend!(
    settlement_fails_if_result_is_suppressed,
    settlement_is_kept_if_attempt_is_suppressed,
    settlement_is_kept_if_alert_is_suppressed,
    repeated_settlement_finds_stored_alert,
    claim_leaves_out_suppressed_leases,
    ordered_claim_counts_suppressed_postponements,
    suppressed_deletion_keeps_event_and_attempt,
    suppressed_pruning_keeps_event_and_attempt,
    pause_and_resumption_fail_if_suppressed,
    parking_fails_if_suppressed,
    added_image_fails_if_suppressed,
    trial_entry_fails_if_suppressed,
    stores_counts_beside_suppressed_one,
);

/// Asserts that an operation failed because rows of this table were suppressed.
fn assert_suppressed<T: std::fmt::Debug>(result: &Result<T, StoreError>, table: &str) {
    let is_suppression = |error: &StoreError| {
        error.is_suppression() && error.to_string().contains(&format!("rows of {table} "))
    };
    assert!(result.as_ref().is_err_and(is_suppression), "{result:?}");
}

/// Opens a store with a leased delivery for each of these images.
async fn open_with_leases<const N: usize>(fixture: &Fixture, images: [&str; N]) -> Store {
    let store = fixture.open_for(&["app"]).await;
    record(&store, images.map(|id| uploaded(id, 10))).await;
    claim(&store, due("app", 100)).await;
    store
}

fn delivered(delivery: i64) -> Settlement {
    settlement(delivery, attempted(1, NextState::Delivered))
}

async fn trial_entry_fails_if_suppressed(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;

    let before = store.schema.try_audit_log().await;
    Suppression::of_inserts("cloudflare_image_logs")
        .start(&fixture.database)
        .await;
    let after = store.schema.try_audit_log().await;

    assert!(before.is_ok(), "{before:?}");
    assert_suppressed(&after, "cloudflare_image_logs");
    let entries = "SELECT count(*) FROM cloudflare_image_logs";
    assert_eq!(fixture.database.count(entries).await, 0);
}

async fn settlement_fails_if_result_is_suppressed(fixture: &Fixture) {
    let store = open_with_leases(fixture, ["a", "b"]).await;
    Suppression::of_updates_when("relay_deliveries", "NEW.id = 1")
        .start(&fixture.database)
        .await;

    let both = store.outbox.settle(&[delivered(1), delivered(2)]).await;
    let other = store.outbox.settle(&[delivered(2)]).await;

    assert_suppressed(&both, "relay_deliveries");
    assert_eq!(other.expect("it is not suppressed").lost_leases, 0);
    assert_eq!(find(&store, 1).await.status, DeliveryStatus::Leased);
    assert_eq!(fixture.database.attempts().await.len(), 1);
}

async fn settlement_is_kept_if_attempt_is_suppressed(fixture: &Fixture) {
    let store = open_with_leases(fixture, ["a"]).await;
    Suppression::of_inserts("relay_attempts")
        .start(&fixture.database)
        .await;

    let settled = store.outbox.settle(&[delivered(1)]).await;

    let suppressed = settled.expect("the result is stored").suppressed;
    assert_suppressed(&suppressed.map_or(Ok(()), Err), "relay_attempts");
    assert_eq!(find(&store, 1).await.status, DeliveryStatus::Delivered);
}

/// Returns a settlement of the first delivery with an alert.
fn with_alert() -> Settlement {
    let LeaseResult::Attempted(failed) = attempted(1, NextState::Failed) else {
        panic!("an attempt");
    };
    let alert = Alert {
        id: "evt_1".to_owned(),
        event: "delivery_failed",
        endpoint: "on_failure",
        payload: "{}".to_owned(),
        at: at(200),
    };
    let failed = FinishedAttempt {
        alerts: vec![alert],
        ..failed
    };
    settlement(1, LeaseResult::Attempted(failed))
}

async fn settlement_is_kept_if_alert_is_suppressed(fixture: &Fixture) {
    let store = open_with_leases(fixture, ["a"]).await;
    Suppression::of_inserts("relay_events")
        .start(&fixture.database)
        .await;

    let settled = store.outbox.settle(&[with_alert()]).await;

    let suppressed = settled.expect("the result is stored").suppressed;
    assert_suppressed(&suppressed.map_or(Ok(()), Err), "relay_events");
    assert_eq!(find(&store, 1).await.status, DeliveryStatus::Failed);
    assert_eq!(fixture.database.deliveries().await.len(), 1);
}

async fn repeated_settlement_finds_stored_alert(fixture: &Fixture) {
    let store = open_with_leases(fixture, ["a"]).await;
    for _ in 0..2 {
        let settled = store.outbox.settle(&[with_alert()]).await;
        assert!(settled.expect("it succeeds").suppressed.is_none());
    }
    assert_eq!(fixture.database.events().await.len(), 2);
}

async fn claim_leaves_out_suppressed_leases(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, ["a", "b", "c"].map(|id| uploaded(id, 10))).await;
    Suppression::of_updates_when("relay_deliveries", "NEW.id = 2")
        .start(&fixture.database)
        .await;

    let claimed = store.outbox.claim(&due("app", 100)).await;
    let again = store.outbox.claim(&due("app", 100)).await;

    let (claimed, again) = (claimed.expect("a claim"), again.expect("a claim"));
    assert_eq!((ids(&claimed.leased), claimed.suppressed), (vec![1, 3], 1));
    assert_eq!((ids(&again.leased), again.suppressed), (vec![], 1));
}

async fn ordered_claim_counts_suppressed_postponements(fixture: &Fixture) {
    let store = open_with_ordered_endpoint(fixture).await;
    for seconds in [10, 20] {
        record(&store, [uploaded("a", seconds)]).await;
    }
    Suppression::of_updates_when("relay_deliveries", "NEW.id = 2")
        .start(&fixture.database)
        .await;
    let in_order = Claim {
        ordered: true,
        ..due("app", 100)
    };

    // On Postgres, a claim that leases the earlier delivery does not postpone the later one.
    let _first = store.outbox.claim(&in_order).await.expect("a claim");
    let second = with_lease("second", in_order);
    let second = store.outbox.claim(&second).await.expect("a claim");

    assert_eq!((second.leased.len(), second.postponed), (0, 0));
    assert_eq!(second.suppressed, 1);
}

/// Opens a store with two failed deliveries, and suppresses the deletion of the first one.
async fn open_with_kept_delivery(fixture: &Fixture) -> Store {
    let store = open_with_leases(fixture, ["a", "b"]).await;
    let failed = |delivery| settlement(delivery, attempted(1, NextState::Failed));
    settle(&store, &[failed(1), failed(2)]).await;
    Suppression::of_deletes_when("relay_deliveries", "OLD.id = 1")
        .start(&fixture.database)
        .await;
    store
}

/// Asserts that only the first delivery is left, with its event and its attempt.
async fn assert_kept_whole(fixture: &Fixture, store: &Store) {
    let kept = find(store, 1).await;
    let events = fixture.database.events().await;
    let attempts = fixture.database.attempts().await;
    assert_eq!(fixture.database.deliveries().await.len(), 1);
    assert_eq!((events.len(), attempts.len()), (1, 1));
    assert_eq!(events[0]["id"], kept.event_id);
    assert_eq!(attempts[0]["delivery_id"], 1);
}

async fn suppressed_deletion_keeps_event_and_attempt(fixture: &Fixture) {
    let store = open_with_kept_delivery(fixture).await;
    let failed = Unsent {
        endpoint: "app".to_owned(),
        with_failed: true,
        now: ClockReading::Manual(at(300)),
        limit: 10,
    };

    let deleted = store.delivery_catalog.delete_deliveries(&failed).await;

    assert_eq!(deleted.expect("the other one is deleted"), 1);
    assert_kept_whole(fixture, &store).await;
}

async fn suppressed_pruning_keeps_event_and_attempt(fixture: &Fixture) {
    let store = open_with_kept_delivery(fixture).await;
    let old = PruneQuery {
        table: PrunableTable::Deliveries,
        after: 0,
        limit: 10,
        before: at(30),
        mode: PruneMode::Delete,
    };

    let page = store.retention.prune_page(&old).await;

    let page = page.expect("the other one is deleted").expect("a page");
    assert_eq!(page.pruned, 1);
    assert_kept_whole(fixture, &store).await;
}

async fn pause_and_resumption_fail_if_suppressed(fixture: &Fixture) {
    let store = fixture.open().await;
    let pause = Pause {
        endpoint: "app",
        reason: "gone",
        now: ClockReading::Manual(at(50)),
        alert: None,
    };
    let suppression = Suppression::of_inserts("relay_endpoints");
    suppression.start(&fixture.database).await;

    let suppressed = store.outbox.pause(&pause).await;
    suppression.stop(&fixture.database).await;
    let paused = store.outbox.pause(&pause).await;
    Suppression::of_updates_when("relay_endpoints", "1 = 1")
        .start(&fixture.database)
        .await;
    let resumed = store.outbox.resume("app", None).await;
    let other_reason = store.outbox.resume("app", Some("operator")).await;

    assert_suppressed(&suppressed, "relay_endpoints");
    assert!(paused.expect("it is not suppressed"));
    assert_suppressed(&resumed, "relay_endpoints");
    assert!(!other_reason.expect("there is nothing to write"));
}

async fn parking_fails_if_suppressed(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;
    Suppression::of_updates_when("webhook_rejections", "1 = 1")
        .start(&fixture.database)
        .await;

    let parked = store.rejections.park(1, &image_id("b"), at(50)).await;
    let unknown = store.rejections.park(7, &image_id("b"), at(50)).await;

    assert_suppressed(&parked, "webhook_rejections");
    assert!(unknown.is_ok());
}

async fn added_image_fails_if_suppressed(fixture: &Fixture) {
    let store = fixture.open().await;
    Suppression::of_inserts("cloudflare_images")
        .start(&fixture.database)
        .await;
    let image = NewImage {
        cloudflare_id: image_id("a"),
        filename: String::new(),
        creator: String::new(),
        metadata: Json::empty_object(),
        expires_at: None,
        require_signed_urls: false,
    };

    let added = store.image_catalog.add(&image, at(50)).await;

    assert_suppressed(&added, "cloudflare_images");
}

async fn stores_counts_beside_suppressed_one(fixture: &Fixture) {
    let store = fixture.open().await;
    Suppression::of_inserts_when("webhook_rejections", "NEW.scheme = 'hmac'")
        .start(&fixture.database)
        .await;
    let refused = |scheme| RefusalCount {
        minute: at(0),
        reason: RejectionReason::Unauthenticated,
        scheme,
        network: "192.0.2.0/24".to_owned(),
        count: 2,
    };

    let counts = [refused("hmac"), refused("")];
    let suppressed = store.rejections.add_refusals(&counts).await;

    assert_eq!(suppressed.expect("the other one is stored"), 1);
    let rows = fixture.database.rejections().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["count"], 2);
}
