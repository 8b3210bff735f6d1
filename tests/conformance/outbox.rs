//! `Outbox`: claiming and settling deliveries. `pauses.rs` tests pauses.

use std::sync::Arc;
use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::delivery::DeliveryStatus;
use cloudflare_images_webhook::domain::event::{Model, Subscription, Subscriptions};
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{
    Alert, Claim, Delivery, ExpiredLeases, FinishedAttempt, GivenUp, LEASE_EXPIRED, LeaseResult,
    LeasedDelivery, NewAttempt, NextState, Settlement, Store,
};

use crate::fixture::{Fixture, on_every_backend, subscription};
use crate::notifications::{at, failed, record, uploaded};

on_every_backend!(
    claims_longest_due_first_up_to_limit,
    claims_nothing_before_due_time,
    claims_only_deliveries_of_endpoint,
    leases_until_given_time,
    leases_event_with_its_payload,
    ordered_claim_takes_one_delivery_per_image,
    unordered_claim_takes_all_deliveries,
    leases_each_delivery_to_one_process,
    settles_each_result,
    released_delivery_has_last_response,
    lost_lease_stores_only_attempt,
    counts_expired_lease_as_attempt,
    claims_one_expired_delivery_at_a_time,
    gives_up_without_attempt,
    publishes_alerts_of_settlements,
);

/// The default lease.
pub(crate) const LEASE: &str = "lease";

async fn claims_longest_due_first_up_to_limit(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    let reports = [("a", 30), ("b", 10), ("c", 20), ("d", 20)];
    record(&store, reports.map(|(id, seconds)| uploaded(id, seconds))).await;
    let two = Claim {
        limit: 2,
        ..due("app", 100)
    };

    let first = claim(&store, with_lease("first", two)).await;
    let second = claim(&store, with_lease("second", two)).await;
    let third = claim(&store, with_lease("third", two)).await;

    assert_eq!(ids(&first), [2, 3]);
    assert_eq!(ids(&second), [1, 4]);
    assert!(third.is_empty());
}

async fn claims_nothing_before_due_time(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;

    let before = claim(&store, due("app", 9)).await;
    let at_due_time = claim(&store, due("app", 10)).await;

    assert!(before.is_empty());
    assert_eq!(ids(&at_due_time), [1]);
}

async fn claims_only_deliveries_of_endpoint(fixture: &Fixture) {
    let store = fixture.open_for(&["app", "archive"]).await;
    record(&store, [uploaded("a", 10)]).await;

    let archive = claim(&store, due("archive", 100)).await;
    let unknown = claim(&store, due("other", 100)).await;

    assert_eq!(ids(&archive), [2]);
    assert!(unknown.is_empty());
}

async fn leases_until_given_time(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, due("app", 100)).await;

    let leased = find(&store, 1).await;
    let during = claim(&store, with_lease("second", due("app", 159))).await;
    let after = claim(&store, with_lease("third", due("app", 160))).await;

    assert_eq!(leased.status, DeliveryStatus::Leased);
    assert_eq!(leased.due_at, Some(at(160)));
    assert!(during.is_empty());
    assert_eq!(ids(&after), [1]);
}

async fn leases_event_with_its_payload(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;

    let leased = claim(&store, due("app", 100)).await.remove(0);

    let event = fixture.database.events().await.remove(0);
    assert_eq!(leased.event_id, event["id"]);
    assert_eq!(leased.payload, event["payload"]);
    assert_eq!(leased.model, Some(Model::Image));
    assert_eq!(leased.attempts, 0);
}

async fn ordered_claim_takes_one_delivery_per_image(fixture: &Fixture) {
    let store = open_with_ordered_endpoint(fixture).await;
    record(
        &store,
        [uploaded("a", 10), uploaded("b", 10), failed("a", 11)],
    )
    .await;
    let in_order = Claim {
        ordered: true,
        duration: Duration::from_mins(5),
        ..due("app", 100)
    };

    let first = claim(&store, in_order).await;
    let during_lease = claim(&store, with_lease("second", in_order)).await;
    let failed = Settlement {
        ordered: true,
        ..settlement(1, attempted(1, NextState::Failed))
    };
    settle(&store, &[failed]).await;
    let later = Claim {
        now: ClockReading::Manual(at(200)),
        ..in_order
    };
    let after_failure = claim(&store, with_lease("third", later)).await;

    assert_eq!(ids(&first), [1, 2]);
    assert!(during_lease.is_empty());
    assert_eq!(ids(&after_failure), [3]);
}

async fn unordered_claim_takes_all_deliveries(fixture: &Fixture) {
    let store = open_with_ordered_endpoint(fixture).await;
    record(&store, [uploaded("a", 10), failed("a", 11)]).await;

    let leased = claim(&store, due("app", 100)).await;

    assert_eq!(ids(&leased), [1, 2]);
}

async fn leases_each_delivery_to_one_process(fixture: &Fixture) {
    let (first, second) = (
        fixture.open_for(&["app"]).await,
        fixture.open_for(&["app"]).await,
    );
    record(&first, ["a", "b", "c", "d"].map(|id| uploaded(id, 10))).await;
    let claims = ["first", "second"].map(|lease| with_lease(lease, due("app", 100)));

    let (first_claim, second_claim) =
        tokio::join!(claim(&first, claims[0]), claim(&second, claims[1]));
    let third = claim(&first, due("app", 100)).await;

    let mut leased = [ids(&first_claim), ids(&second_claim), ids(&third)].concat();
    leased.sort_unstable();
    assert_eq!(leased, [1, 2, 3, 4]);
}

async fn settles_each_result(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    let images = ["a", "b", "c", "d", "e", "f"];
    record(&store, images.map(|id| uploaded(id, 10))).await;
    claim(&store, due("app", 100)).await;
    let released = |earlier_attempts| LeaseResult::Released { earlier_attempts };

    let lost = settle(
        &store,
        &[
            settlement(1, attempted(1, NextState::Delivered)),
            settlement(
                2,
                attempted(2, NextState::RetryAfter(Duration::from_secs(100))),
            ),
            settlement(3, attempted(3, NextState::Failed)),
            settlement(4, LeaseResult::Filtered),
            settlement(5, released(0)),
            settlement(6, released(1)),
        ],
    )
    .await;

    assert_eq!(lost, 0);
    let (open, done) = (None, Some(at(200)));
    let due = |seconds| Some(at(seconds));
    for (id, status, due_at, completed_at, attempts) in [
        (1, DeliveryStatus::Delivered, None, done, 1),
        (2, DeliveryStatus::Retrying, due(300), open, 2),
        (3, DeliveryStatus::Failed, None, done, 3),
        (4, DeliveryStatus::Filtered, None, done, 0),
        (5, DeliveryStatus::Pending, due(200), open, 0),
        (6, DeliveryStatus::Retrying, due(200), open, 0),
    ] {
        let delivery = find(&store, id).await;
        assert_eq!(delivery.status, status, "{id}");
        assert_eq!(delivery.due_at, due_at, "{id}");
        assert_eq!(delivery.completed_at, completed_at, "{id}");
        assert_eq!(delivery.attempts, attempts, "{id}");
        let was_attempted = attempts > 0;
        assert_eq!(delivery.status_code, was_attempted.then_some(503), "{id}");
        assert_eq!(delivery.error.is_empty(), !was_attempted, "{id}");
    }
    assert_eq!(fixture.database.attempts().await.len(), 3);
}

async fn released_delivery_has_last_response(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, due("app", 100)).await;
    let retry = attempted(1, NextState::RetryAfter(Duration::from_secs(100)));
    settle(&store, &[settlement(1, retry)]).await;
    let leased = claim(&store, due("app", 300)).await.remove(0);

    let earlier_attempts = leased.attempts;
    let released = LeaseResult::Released { earlier_attempts };
    settle(&store, &[settlement(1, released)]).await;

    assert_eq!(earlier_attempts, 1);
    let delivery = find(&store, 1).await;
    assert_eq!(delivery.status, DeliveryStatus::Retrying);
    assert_eq!(delivery.attempts, 1);
    assert_eq!(delivery.status_code, Some(503));
    assert_eq!(delivery.error, "unavailable");
}

async fn lost_lease_stores_only_attempt(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10), uploaded("b", 90)]).await;
    claim(&store, with_lease("lost", due("app", 50))).await;
    for _ in 0..2 {
        claim(&store, due("app", 120)).await;
    }
    let late = Settlement {
        lease: Arc::from("lost"),
        ..settlement(1, attempted(1, NextState::Delivered))
    };
    let in_time = settlement(2, attempted(1, NextState::Delivered));

    let lost = settle(&store, &[late, in_time]).await;

    assert_eq!(lost, 1);
    let unsettled = find(&store, 1).await;
    assert_eq!(unsettled.status, DeliveryStatus::Leased);
    assert_eq!(unsettled.attempts, 1);
    assert_eq!(unsettled.completed_at, None);
    assert_eq!(find(&store, 2).await.status, DeliveryStatus::Delivered);
    let attempts = store.delivery_catalog.attempts(1, 10).await;
    assert_eq!(attempts.expect("the query succeeds").len(), 2);
    let repeated = settlement(1, attempted(2, NextState::Delivered));
    assert_eq!(settle(&store, &[repeated]).await, 0);
}

async fn counts_expired_lease_as_attempt(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    let first = claim(&store, due("app", 100)).await.remove(0);
    let released = LeaseResult::Released {
        earlier_attempts: 0,
    };
    settle(&store, &[settlement(1, released)]).await;
    let second = claim(&store, due("app", 300)).await.remove(0);

    let third = claim(&store, with_lease("third", due("app", 360))).await;

    assert_eq!((first.attempts, first.lease_expired), (0, false));
    assert_eq!((second.attempts, second.lease_expired), (0, false));
    assert_eq!((third[0].attempts, third[0].lease_expired), (1, true));
    let delivery = find(&store, 1).await;
    assert_eq!((delivery.attempts, &*delivery.error), (1, LEASE_EXPIRED));
    let attempts = store.delivery_catalog.attempts(1, 10).await;
    let attempts = attempts.expect("the query succeeds");
    assert_eq!(attempts.len(), 1);
    assert_eq!(
        (attempts[0].number, &*attempts[0].error),
        (1, LEASE_EXPIRED)
    );
    assert_eq!(attempts[0].started_at, at(360), "the end of the lost lease");
}

async fn claims_one_expired_delivery_at_a_time(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, ["a", "b", "c"].map(|id| uploaded(id, 10))).await;
    claim(&store, due("app", 100)).await;
    record(&store, [uploaded("d", 110)]).await;
    let none = Claim {
        expired_leases: ExpiredLeases::None,
        ..due("app", 200)
    };

    let fresh_only = claim(&store, with_lease("second", none)).await;
    let first = claim(&store, with_lease("third", due("app", 200))).await;
    let second = claim(&store, with_lease("fourth", due("app", 200))).await;

    assert_eq!(ids(&fresh_only), [4]);
    assert_eq!([ids(&first), ids(&second)], [[1], [2]]);
}

async fn gives_up_without_attempt(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, with_lease("lost", due("app", 50))).await;
    claim(&store, due("app", 120)).await;

    let given_up = LeaseResult::GivenUp(GivenUp { alerts: Vec::new() });
    settle(&store, &[settlement(1, given_up)]).await;

    let delivery = find(&store, 1).await;
    assert_eq!(delivery.status, DeliveryStatus::Failed);
    assert_eq!(delivery.completed_at, Some(at(200)));
    assert_eq!((delivery.attempts, &*delivery.error), (1, LEASE_EXPIRED));
    assert_eq!(fixture.database.attempts().await.len(), 1);
}

async fn publishes_alerts_of_settlements(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, due("app", 100)).await;
    let alert = |endpoint| Alert {
        id: "evt_1".to_owned(),
        event: "delivery_failed",
        endpoint,
        payload: r#"{"id":"evt_1"}"#.to_owned(),
        at: at(150),
    };
    let LeaseResult::Attempted(mut failed) = attempted(1, NextState::Failed) else {
        unreachable!("the result is an attempt");
    };
    failed.alerts = vec![alert("alerts"), alert("pager")];

    settle(&store, &[settlement(1, LeaseResult::Attempted(failed))]).await;

    for endpoint in ["alerts", "pager"] {
        assert!(claim(&store, due(endpoint, 149)).await.is_empty());
        let leased = claim(&store, due(endpoint, 150)).await.remove(0);
        assert_eq!(leased.event_id, "evt_1");
        assert_eq!(leased.payload, r#"{"id":"evt_1"}"#);
        assert_eq!(leased.model, None);
    }
}

/// Opens a store whose endpoint `app` is ordered.
pub(crate) async fn open_with_ordered_endpoint(fixture: &Fixture) -> Store {
    let subscription = Subscription {
        ordered: true,
        ..subscription("app")
    };
    let subscriptions = Subscriptions {
        endpoints: vec![subscription],
        channel: None,
    };
    fixture
        .open_with(UnknownImages::Create, subscriptions)
        .await
}

/// Returns a claim of all deliveries due at this second. The lease lasts a minute.
pub(crate) fn due(endpoint: &str, now: i64) -> Claim<'_> {
    Claim {
        endpoint,
        limit: 100,
        ordered: false,
        ignores_pause: false,
        expired_leases: ExpiredLeases::One,
        now: ClockReading::Manual(at(now)),
        duration: Duration::from_mins(1),
        lease: LEASE,
    }
}

/// Returns the claim with another lease.
pub(crate) fn with_lease<'a>(lease: &'a str, claim: Claim<'a>) -> Claim<'a> {
    Claim { lease, ..claim }
}

/// Returns a settlement at second 200.
pub(crate) fn settlement(delivery: i64, result: LeaseResult) -> Settlement {
    Settlement {
        delivery,
        lease: LEASE.into(),
        now: ClockReading::Manual(at(200)),
        ordered: false,
        result,
    }
}

/// Returns an attempt with the response 503.
pub(crate) fn attempted(number: u32, next_state: NextState) -> LeaseResult {
    LeaseResult::Attempted(FinishedAttempt {
        attempt: NewAttempt {
            number,
            started_at: at(150),
            duration: Duration::from_millis(250),
            status_code: Some(503),
            error: "unavailable".to_owned(),
        },
        next_state,
        sent_payload: None,
        alerts: Vec::new(),
    })
}

pub(crate) async fn claim(store: &Store, claim: Claim<'_>) -> Vec<LeasedDelivery> {
    let claimed = store.outbox.claim(&claim).await;
    claimed.expect("the query succeeds").leased
}

pub(crate) async fn settle(store: &Store, settlements: &[Settlement]) -> usize {
    let settled = store.outbox.settle(settlements).await;
    let settled = settled.expect("the query succeeds");
    assert!(settled.suppressed.is_none(), "{settled:?}");
    settled.lost_leases
}

pub(crate) async fn find(store: &Store, id: i64) -> Delivery {
    let found = store.delivery_catalog.find_delivery(id).await;
    found.expect("the query succeeds").expect("a delivery")
}

pub(crate) fn ids(leased: &[LeasedDelivery]) -> Vec<i64> {
    leased.iter().map(|delivery| delivery.id).collect()
}
