//! `Outbox`: deliveries of ordered endpoints.

use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::delivery::DeliveryStatus;
use cloudflare_images_webhook::store::{
    Claim, Claimed, DeliveryFilter, LEASE_EXPIRED, LeaseResult, NextState, Settlement, Store,
};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, failed, record, uploaded};
use crate::outbox::{
    attempted, due, find, ids, open_with_ordered_endpoint, settle, settlement, with_lease,
};

on_every_backend!(
    postpones_blocked_deliveries_once,
    looks_past_blocked_deliveries,
    completion_makes_next_delivery_due,
    retry_leaves_next_delivery_blocked,
    postpones_blocked_delivery_with_expired_lease,
    releases_postponed_deliveries_by_page,
    leaves_delivery_due_while_earlier_is_locked,
);

/// The time between a claim and the due time of a delivery that it postponed.
const POSTPONEMENT_SECS: i64 = 3600;

async fn postpones_blocked_deliveries_once(fixture: &Fixture) {
    let store = three_of_one_image(fixture).await;

    let first = claim_in_order(&store, 100).await;
    let second = claim_in_order(&store, 101).await;

    assert_eq!((ids(&first.leased), first.postponed), (vec![1], 2));
    assert_eq!((ids(&second.leased), second.postponed), (vec![], 0));
    for id in [2, 3] {
        let blocked = find(&store, id).await;
        assert_eq!(blocked.status, DeliveryStatus::Pending);
        assert_eq!(blocked.due_at, Some(at(100 + POSTPONEMENT_SECS)));
    }
}

async fn looks_past_blocked_deliveries(fixture: &Fixture) {
    let store = three_of_one_image(fixture).await;
    claim_in_order(&store, 13).await;
    record(
        &store,
        [uploaded("b", 14), failed("a", 15), uploaded("c", 16)],
    )
    .await;
    let one = Claim {
        limit: 1,
        ..in_order(100)
    };

    let claimed = store.outbox.claim(&with_lease("second", one)).await;

    let claimed = claimed.expect("the query succeeds");
    assert_eq!((ids(&claimed.leased), claimed.postponed), (vec![4], 1));
}

async fn completion_makes_next_delivery_due(fixture: &Fixture) {
    for result in [attempted(1, NextState::Delivered), LeaseResult::Filtered] {
        let fixture = Fixture::new(fixture.backend()).await;
        let store = three_of_one_image(&fixture).await;
        claim_in_order(&store, 100).await;

        settle(&store, &[in_order_of(settlement(1, result))]).await;

        assert_eq!(find(&store, 2).await.due_at, Some(at(200)));
        let third = find(&store, 3).await;
        assert_eq!(third.due_at, Some(at(100 + POSTPONEMENT_SECS)));
        assert_eq!(ids(&claim_in_order(&store, 200).await.leased), [2]);
        fixture.close().await;
    }
}

async fn retry_leaves_next_delivery_blocked(fixture: &Fixture) {
    let store = three_of_one_image(fixture).await;
    claim_in_order(&store, 100).await;
    let retry = attempted(1, NextState::RetryAfter(Duration::from_secs(100)));

    settle(&store, &[in_order_of(settlement(1, retry))]).await;

    assert!(claim_in_order(&store, 299).await.leased.is_empty());
    assert_eq!(ids(&claim_in_order(&store, 300).await.leased), [1]);
}

async fn postpones_blocked_delivery_with_expired_lease(fixture: &Fixture) {
    let store = three_of_one_image(fixture).await;
    claim_in_order(&store, 100).await;
    let delivered = settlement(1, attempted(1, NextState::Delivered));
    settle(&store, &[in_order_of(delivered)]).await;
    claim_in_order(&store, 200).await;
    let replayed = DeliveryFilter {
        id: Some(1),
        ..DeliveryFilter::default()
    };
    let now = ClockReading::Manual(at(270));
    let replay = store.delivery_catalog.replay(&replayed, now).await;
    assert_eq!(replay.expect("the query succeeds").changed, 1);

    let claimed = claim_in_order(&store, 300).await;

    assert_eq!((ids(&claimed.leased), claimed.postponed), (vec![1], 1));
    let blocked = find(&store, 2).await;
    assert_eq!(blocked.status, DeliveryStatus::Retrying);
    assert_eq!(blocked.due_at, Some(at(300 + POSTPONEMENT_SECS)));
    assert_eq!((blocked.attempts, &*blocked.error), (1, LEASE_EXPIRED));
}

async fn releases_postponed_deliveries_by_page(fixture: &Fixture) {
    let store = three_of_one_image(fixture).await;
    claim_in_order(&store, 100).await;
    let now = ClockReading::Manual(at(150));
    let release = async || {
        let released = store.outbox.release_postponed("app", now, 1).await;
        released.expect("the query succeeds")
    };

    let pages = [release().await, release().await, release().await];

    assert_eq!(pages, [1, 1, 0]);
    for id in [2, 3] {
        assert_eq!(find(&store, id).await.due_at, Some(at(150)));
    }
}

/// The earlier delivery may be complete soon. Its settlement would not see that the claim postponed the next one.
async fn leaves_delivery_due_while_earlier_is_locked(fixture: &Fixture) {
    if !fixture.database.is_postgres() {
        return;
    }
    let store = open_with_ordered_endpoint(fixture).await;
    record(&store, [uploaded("a", 10)]).await;
    claim_in_order(&store, 100).await;
    record(&store, [failed("a", 11)]).await;
    let settling = "SELECT FROM relay_deliveries WHERE id = 1 FOR UPDATE";
    let lock = fixture.database.hold_lock_of(settling).await;

    let locked = claim_in_order(&store, 101).await;
    let due_at = find(&store, 2).await.due_at;
    lock.release().await;
    let unlocked = claim_in_order(&store, 102).await;

    assert_eq!((locked.leased.len(), locked.postponed), (0, 0));
    assert_eq!(due_at, Some(at(11)));
    assert_eq!((unlocked.leased.len(), unlocked.postponed), (0, 1));
}

/// Records three events of one image, at 10, 11 and 12.
async fn three_of_one_image(fixture: &Fixture) -> Store {
    let store = open_with_ordered_endpoint(fixture).await;
    record(
        &store,
        [uploaded("a", 10), failed("a", 11), uploaded("a", 12)],
    )
    .await;
    store
}

fn in_order(now: i64) -> Claim<'static> {
    Claim {
        ordered: true,
        ..due("app", now)
    }
}

async fn claim_in_order(store: &Store, now: i64) -> Claimed {
    let claimed = store.outbox.claim(&in_order(now)).await;
    claimed.expect("the query succeeds")
}

fn in_order_of(settlement: Settlement) -> Settlement {
    Settlement {
        ordered: true,
        ..settlement
    }
}
