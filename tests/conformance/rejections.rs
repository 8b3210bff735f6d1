//! `Rejections`: parking, applying and counting rejections. `rejection_catalog.rs` tests how they
//! are shown.

use std::sync::Arc;

use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::image::Status;
use cloudflare_images_webhook::domain::notification::{Notification, UnknownImages};
use cloudflare_images_webhook::domain::outcome::{Outcome, RejectionReason};
use cloudflare_images_webhook::domain::rejection::RejectionState;
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::{
    ParkedPage, ParkedQuery, RefusalCount, Rejection, RejectionFilter, Store,
};

use crate::fixture::{Fixture, on_every_backend, subscription};
use crate::notifications::{at, failed, image_id, invalid, record, unauthenticated, uploaded};

on_every_backend!(
    applies_each_rejection_once,
    leaves_rejection_without_image,
    applies_rejection_once_for_two_processes,
    publishes_events_of_applied_rejections,
    parks_stored_rejection_under_new_image,
    parking_again_restarts_time_and_attempts,
    parks_no_applied_or_counted_rejection,
    pages_parked_notifications_that_can_be_applied,
    expires_parked_in_range_of_ids,
    adds_up_counts,
    adds_up_counts_within_one_call,
    counts_each_minute_reason_scheme_and_network,
    fails_parked_notification_after_20_attempts,
    records_no_failure_of_stored_rejection,
);

async fn applies_each_rejection_once(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10), failed("b", 11)]).await;
    for id in ["a", "b"] {
        fixture.database.register(id).await;
    }
    let both = [(1, uploaded("a", 10)), (2, failed("b", 11))];

    let first = apply(&store, &both).await;
    let second = apply(&store, &both).await;

    assert_eq!(
        first,
        [
            (1, Outcome::Applied(Status::Uploaded)),
            (2, Outcome::Applied(Status::Failed)),
        ]
    );
    assert_eq!(second, []);
    let applied = find(&store, 1).await;
    assert!(applied.is_applied());
    assert_eq!(applied.outcome, "applied");
    assert_eq!(applied.settled_at, Some(at(100)));
    let row = fixture.database.image("a").await;
    assert_eq!(row["status"], "uploaded");
    assert_eq!(row["updated_at"], at(100).to_string());
    assert_eq!(fixture.database.logs().await.len(), 2);
}

async fn leaves_rejection_without_image(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;

    let outcomes = apply(&store, &[(1, uploaded("a", 10))]).await;

    let reason = RejectionReason::UnknownImage;
    assert_eq!(outcomes, [(1, Outcome::Rejected(reason))]);
    let rejection = find(&store, 1).await;
    assert_eq!(rejection.state, RejectionState::Parked);
    assert_eq!(rejection.settled_at, None);
    assert_eq!(fixture.database.rejections().await.len(), 1);
}

async fn applies_rejection_once_for_two_processes(fixture: &Fixture) {
    let (first, second) = (fixture.open().await, fixture.open().await);
    record(&first, [uploaded("a", 10)]).await;
    fixture.database.register("a").await;
    let one = [(1, uploaded("a", 10))];

    let (first, second) = tokio::join!(apply(&first, &one), apply(&second, &one));

    let applied = [(1, Outcome::Applied(Status::Uploaded))];
    assert_eq!([first, second].concat(), applied);
    assert_eq!(fixture.database.logs().await.len(), 1);
}

async fn publishes_events_of_applied_rejections(fixture: &Fixture) {
    let subscriptions = Subscriptions {
        endpoints: vec![subscription("app")],
        channel: None,
    };
    let store = fixture
        .open_with(UnknownImages::Reject, subscriptions)
        .await;
    record(&store, [uploaded("a", 10)]).await;
    fixture.database.register("a").await;

    apply(&store, &[(1, uploaded("a", 10))]).await;

    let event = fixture.database.events().await.remove(0);
    assert_eq!(event["event"], "updated");
    assert_eq!(event["created_at"], at(100).to_string());
}

async fn parks_stored_rejection_under_new_image(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [invalid(b"{", 10)]).await;

    park(&store, 1, "a", 50).await;

    let parked = find(&store, 1).await;
    assert_eq!(parked.state, RejectionState::Parked);
    assert_eq!(parked.cloudflare_id.as_deref(), Some("a"));
    assert_eq!(parked.received_at, at(10));
    fixture.database.register("a").await;
    let page = parked_page(&store, query(at(50))).await.expect("a page");
    assert_eq!(ids(&page.rejections), [1]);
}

async fn parking_again_restarts_time_and_attempts(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("b").await;
    record(&store, [uploaded("a", 10)]).await;
    record_failures(&store, 1, 19).await;

    park(&store, 1, "a", 40).await;
    park(&store, 1, "b", 50).await;
    record_failures(&store, 1, 19).await;

    let parked = find(&store, 1).await;
    assert_eq!(parked.state, RejectionState::Parked);
    assert_eq!(parked.cloudflare_id.as_deref(), Some("b"));
    let page = parked_page(&store, query(at(50))).await.expect("a page");
    assert!(!page.has_expired_rows);
    let page = parked_page(&store, query(at(51))).await.expect("a page");
    assert!(page.has_expired_rows);
}

async fn parks_no_applied_or_counted_rejection(fixture: &Fixture) {
    let store = rejections_of_every_kind(fixture).await;
    fixture.database.register("a").await;
    apply(&store, &[(2, uploaded("a", 20))]).await;

    park(&store, 2, "c", 50).await;
    park(&store, 4, "c", 50).await;

    let applied = find(&store, 2).await;
    assert_eq!(applied.state, RejectionState::Applied);
    assert_eq!(applied.cloudflare_id.as_deref(), Some("a"));
    let counted = find(&store, 4).await;
    assert_eq!(counted.state, RejectionState::Counted);
    assert_eq!(counted.cloudflare_id, None);
}

async fn pages_parked_notifications_that_can_be_applied(fixture: &Fixture) {
    let store = fixture.open().await;
    record(
        &store,
        [
            uploaded("a", 10),
            uploaded("without-row", 20),
            unauthenticated(uploaded("c", 30)),
            uploaded("d", 40),
        ],
    )
    .await;
    for id in ["a", "c", "d"] {
        fixture.database.register(id).await;
    }
    let three = ParkedQuery {
        limit: 3,
        ..query(at(20))
    };

    let authenticated = ParkedQuery {
        authenticated_only: true,
        ..three
    };
    let since_first = ParkedQuery {
        since: at(10),
        ..three
    };
    let pages = [
        (three, Some((3, true, vec![3]))),
        (authenticated, Some((3, true, vec![]))),
        (since_first, Some((3, false, vec![1, 3]))),
        (ParkedQuery { after: 3, ..three }, Some((4, false, vec![4]))),
        (ParkedQuery { after: 4, ..three }, None),
    ];

    for (query, expected) in pages {
        let page = parked_page(&store, query).await;
        let page = page.map(|page| (page.last_id, page.has_expired_rows, ids(&page.rejections)));
        assert_eq!(page, expected, "{query:?}");
    }
}

async fn expires_parked_in_range_of_ids(fixture: &Fixture) {
    let store = fixture.open().await;
    let seconds = [10, 10, 20, 10, 10];
    record(&store, seconds.map(|seconds| uploaded("a", seconds))).await;

    let expiring = store.rejections.expire_parked(1, 4, at(20)).await;

    expiring.expect("the query succeeds");
    let stored = RejectionFilter {
        state: Some(RejectionState::Stored),
        ..RejectionFilter::default()
    };
    let stored = unapplied(&store, &stored, 0, 10).await;
    // The third was parked exactly at the limit, so it has not expired.
    assert_eq!(ids(&stored), [2, 4]);
}

async fn adds_up_counts(fixture: &Fixture) {
    let store = fixture.open().await;
    let refused = |count| refused(60, RejectionReason::Unauthenticated, count);

    add_refusals(&store, &[refused(3)]).await;
    add_refusals(&store, &[refused(4)]).await;

    let counted = find(&store, 1).await;
    assert_eq!(counted.count, 7);
    assert_eq!(counted.received_at, at(60));
    assert_eq!(counted.status, 401);
    assert_eq!(counted.reason, "unauthorized");
    assert_eq!(counted.request_info.scheme, "hmac");
    assert_eq!(counted.request_info.client_address, "192.0.2.0/24");
    assert_eq!(counted.state, RejectionState::Counted);
    assert_eq!(counted.body, None);
    assert_eq!(fixture.database.rejections().await.len(), 1);
}

async fn adds_up_counts_within_one_call(fixture: &Fixture) {
    let store = fixture.open().await;
    let refused = |count| refused(60, RejectionReason::Unauthenticated, count);

    add_refusals(&store, &[refused(3), refused(4)]).await;
    add_refusals(&store, &[refused(5), refused(6)]).await;

    assert_eq!(find(&store, 1).await.count, 18);
    assert_eq!(fixture.database.rejections().await.len(), 1);
}

async fn counts_each_minute_reason_scheme_and_network(fixture: &Fixture) {
    let store = fixture.open().await;
    let one = refused(60, RejectionReason::Unauthenticated, 1);
    let counts = [
        one.clone(),
        RefusalCount {
            minute: at(120),
            ..one.clone()
        },
        RefusalCount {
            reason: RejectionReason::AddressNotAllowed,
            ..one.clone()
        },
        RefusalCount {
            scheme: "",
            ..one.clone()
        },
        RefusalCount {
            network: "2001:db8::/56".to_owned(),
            ..one
        },
    ];

    add_refusals(&store, &counts).await;
    add_refusals(&store, &counts).await;
    add_refusals(&store, &[]).await;

    let rows = fixture.database.rejections().await;
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row["count"] == 2), "{rows:?}");
}

async fn fails_parked_notification_after_20_attempts(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10), uploaded("b", 10)]).await;

    record_failures(&store, 1, 19).await;
    let after_19 = find(&store, 1).await;
    record_failures(&store, 1, 1).await;
    let after_20 = find(&store, 1).await;

    assert_eq!(after_19.state, RejectionState::Parked);
    assert_eq!(after_19.outcome, "the row is locked");
    assert_eq!(after_19.settled_at, Some(at(70)));
    assert_eq!(after_20.state, RejectionState::Failed);
    assert_eq!(find(&store, 2).await.state, RejectionState::Parked);
    fixture.database.register("a").await;
    let applied = apply(&store, &[(1, uploaded("a", 10))]).await;
    assert_eq!(applied, [(1, Outcome::Applied(Status::Uploaded))]);
}

async fn records_no_failure_of_stored_rejection(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [invalid(b"{", 10)]).await;

    record_failures(&store, 1, 20).await;

    let stored = find(&store, 1).await;
    assert_eq!(stored.state, RejectionState::Stored);
    assert_eq!(stored.outcome, "");
    assert_eq!(stored.settled_at, None);
}

/// Creates a stored rejection at 10, parked ones at 20 and 30, and a counted one at 40.
pub(crate) async fn rejections_of_every_kind(fixture: &Fixture) -> Store {
    let store = fixture.open().await;
    record(
        &store,
        [invalid(b"{", 10), uploaded("a", 20), uploaded("b", 30)],
    )
    .await;
    add_refusals(&store, &[refused(40, RejectionReason::Unauthenticated, 1)]).await;
    store
}

pub(crate) fn ids(rejections: &[Rejection]) -> Vec<i64> {
    rejections.iter().map(|rejection| rejection.id).collect()
}

fn query(since: Timestamp) -> ParkedQuery {
    ParkedQuery {
        after: 0,
        since,
        authenticated_only: false,
        limit: 10,
    }
}

fn refused(minute: i64, reason: RejectionReason, count: i64) -> RefusalCount {
    RefusalCount {
        minute: at(minute),
        reason,
        scheme: "hmac",
        network: "192.0.2.0/24".to_owned(),
        count,
    }
}

async fn find(store: &Store, id: i64) -> Rejection {
    let found = store.rejection_catalog.find_rejection(id).await;
    found.expect("the query succeeds").expect("a rejection")
}

pub(crate) async fn unapplied(
    store: &Store,
    filter: &RejectionFilter,
    after: i64,
    limit: u32,
) -> Vec<Rejection> {
    let catalog = &store.rejection_catalog;
    let listing = catalog.unapplied_rejections(filter, after, limit).await;
    listing.expect("the query succeeds")
}

async fn parked_page(store: &Store, query: ParkedQuery) -> Option<ParkedPage> {
    let looking = store.rejections.parked_page(&query).await;
    looking.expect("the query succeeds")
}

async fn park(store: &Store, id: i64, cloudflare_id: &str, seconds: i64) {
    let image = image_id(cloudflare_id);
    let parking = store.rejections.park(id, &image, at(seconds)).await;
    parking.expect("the query succeeds");
}

/// Applies notifications at second 100.
pub(crate) async fn apply(
    store: &Store,
    notifications: &[(i64, Notification)],
) -> Vec<(i64, Outcome)> {
    let notifications: Vec<_> = notifications
        .iter()
        .map(|(id, notification)| (*id, Arc::new(notification.clone())))
        .collect();
    let applying = store.rejections.apply(&notifications, at(100)).await;
    applying.expect("the query succeeds")
}

async fn add_refusals(store: &Store, counts: &[RefusalCount]) {
    let suppressed = store.rejections.add_refusals(counts).await;
    assert_eq!(suppressed.expect("the query succeeds"), 0);
}

/// Records this number of failures at second 70.
async fn record_failures(store: &Store, id: i64, times: u32) {
    for _ in 0..times {
        let error = "the row is locked";
        let recording = store.rejections.record_failure(id, error, at(70)).await;
        recording.expect("the query succeeds");
    }
}
