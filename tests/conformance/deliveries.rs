//! `DeliveryCatalog`: showing and replaying deliveries.

use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::delivery::DeliveryStatus;
use cloudflare_images_webhook::domain::event::Model;
use cloudflare_images_webhook::store::{
    Delivery, DeliveryFilter, EndpointState, LeaseResult, MoveTarget, NextState, Pause, Store,
    Unsent,
};
use serde_json::Value;

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, record, uploaded};
use crate::outbox::{attempted, claim, due, find, settle, settlement};

on_every_backend!(
    finds_delivery_with_its_event,
    finds_no_delivery_for_unknown_id,
    shows_sent_payload,
    lists_newest_without_payloads_up_to_limit,
    filters_by_each_field,
    shows_open_deliveries_as_paused,
    lists_attempts_in_order_up_to_limit,
    replays_completed_deliveries_only,
    replays_deliveries_of_filter,
    counts_deliveries_of_endpoints_by_name,
    lists_no_endpoint_with_only_successes,
    names_row_with_unknown_status,
    moves_unsent_deliveries_by_page,
    deletes_unsent_deliveries_by_page,
    counts_unsent_deliveries,
    counts_waiting_deliveries,
);

async fn finds_delivery_with_its_event(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;

    let delivery = find(&store, 1).await;

    let event = fixture.database.events().await.remove(0);
    assert_eq!(delivery.event_id, event["id"]);
    assert_eq!(delivery.event, "created");
    assert_eq!(delivery.model, Model::Image.label());
    assert_eq!(delivery.image.as_deref(), Some("a"));
    assert_eq!(delivery.endpoint, "app");
    assert_eq!(delivery.status, DeliveryStatus::Pending);
    assert_eq!(delivery.status_code, None);
    assert_eq!(delivery.error, "");
    assert_eq!(delivery.attempts, 0);
    assert_eq!(delivery.due_at, Some(at(10)));
    assert_eq!(delivery.created_at, at(10));
    assert_eq!(delivery.completed_at, None);
    assert_eq!(delivery.payload, event["payload"]);
}

async fn finds_no_delivery_for_unknown_id(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;

    let found = store.delivery_catalog.find_delivery(2).await;

    assert!(found.expect("the query succeeds").is_none());
}

async fn shows_sent_payload(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, due("app", 100)).await;

    settle(&store, &[settlement(1, sent("{}"))]).await;

    assert_eq!(find(&store, 1).await.payload, "{}");
}

/// Creates four deliveries: to `app` at 10, 20 and 30, and to `archive` at 10. The first is
/// delivered, and the last has failed.
async fn four_deliveries(fixture: &Fixture) -> Store {
    let both_endpoints = fixture.open_for(&["app", "archive"]).await;
    record(&both_endpoints, [uploaded("a", 10)]).await;
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("b", 20), uploaded("c", 30)]).await;
    claim(&store, due("app", 100)).await;
    let released = LeaseResult::Released {
        earlier_attempts: 0,
    };
    settle(
        &store,
        &[
            settlement(1, sent("{}")),
            settlement(3, released),
            settlement(4, attempted(3, NextState::Failed)),
        ],
    )
    .await;
    store
}

async fn lists_newest_without_payloads_up_to_limit(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;

    let all = list(&store, &DeliveryFilter::default(), 10).await;
    let two = list(&store, &DeliveryFilter::default(), 2).await;

    assert_eq!(ids(&all), [4, 3, 2, 1]);
    assert_eq!(ids(&two), [4, 3]);
    assert!(all.iter().all(|delivery| delivery.payload.is_empty()));
}

async fn filters_by_each_field(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;

    for (filter, expected) in [
        (by_id(2), vec![2]),
        (by_id(5), vec![]),
        (by_endpoint("app"), vec![4, 3, 1]),
        (by_endpoint("other"), vec![]),
        (by_status(DeliveryStatus::Pending), vec![3, 2]),
        (by_status(DeliveryStatus::Paused), vec![]),
        (created_since(20), vec![4, 3]),
        (created_since(31), vec![]),
        (
            DeliveryFilter {
                endpoint: Some("app".to_owned()),
                status: Some(DeliveryStatus::Pending),
                ..created_since(20)
            },
            vec![3],
        ),
        (
            DeliveryFilter {
                id: Some(2),
                ..by_endpoint("app")
            },
            vec![],
        ),
    ] {
        let listed = list(&store, &filter, 10).await;

        assert_eq!(ids(&listed), expected, "{filter:?}");
    }
}

async fn shows_open_deliveries_as_paused(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;

    let pause = Pause {
        endpoint: "app",
        reason: "operator",
        now: ClockReading::Manual(at(300)),
        alert: None,
    };
    let pausing = store.outbox.pause(&pause).await;
    pausing.expect("the query succeeds");

    let paused = list(&store, &by_status(DeliveryStatus::Paused), 10).await;
    let pending = list(&store, &by_status(DeliveryStatus::Pending), 10).await;
    let failed = list(&store, &by_status(DeliveryStatus::Failed), 10).await;
    assert_eq!(ids(&paused), [3]);
    assert_eq!(paused[0].status, DeliveryStatus::Paused);
    assert_eq!(ids(&pending), [2]);
    assert_eq!(ids(&failed), [4]);
}

async fn lists_attempts_in_order_up_to_limit(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10), uploaded("b", 10)]).await;
    for number in 1..=3 {
        claim(&store, due("app", 300)).await;
        let retry = |id| settlement(id, attempted(number, NextState::RetryAfter(Duration::ZERO)));
        settle(&store, &[retry(1), retry(2)]).await;
    }

    let all = store.delivery_catalog.attempts(1, 10).await;
    let two = store.delivery_catalog.attempts(1, 2).await;

    let (all, two) = (
        all.expect("the query succeeds"),
        two.expect("the query succeeds"),
    );
    let numbers: Vec<_> = all.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(two.len(), 2);
    assert_eq!(two[1].number, 2);
    assert_eq!(two[0].started_at, at(150));
    assert_eq!(two[0].duration_ms, 250);
    assert_eq!(two[0].status_code, Some(503));
    assert_eq!(two[0].error, "unavailable");
}

async fn replays_completed_deliveries_only(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;
    let event = fixture.database.events().await.remove(0);

    let replayed = replay(&store, &DeliveryFilter::default()).await;
    let second = replay(&store, &DeliveryFilter::default()).await;

    assert_eq!([replayed, second], [2, 0]);
    let delivery = find(&store, 1).await;
    assert_eq!(delivery.status, DeliveryStatus::Pending);
    assert_eq!(delivery.due_at, Some(at(500)));
    assert_eq!(delivery.attempts, 0);
    assert_eq!(delivery.completed_at, None);
    assert_eq!(delivery.payload, event["payload"]);
    assert_eq!(find(&store, 2).await.due_at, Some(at(10)));
}

async fn replays_deliveries_of_filter(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;
    let completed = fixture.database.deliveries().await;

    for (filter, expected) in [
        (by_id(4), vec![4]),
        (by_id(2), vec![]),
        (by_endpoint("app"), vec![1, 4]),
        (by_endpoint("archive"), vec![]),
        (by_status(DeliveryStatus::Failed), vec![4]),
        (by_status(DeliveryStatus::Paused), vec![]),
        (created_since(30), vec![4]),
        (created_since(31), vec![]),
        (
            DeliveryFilter {
                endpoint: Some("app".to_owned()),
                status: Some(DeliveryStatus::Delivered),
                ..created_since(10)
            },
            vec![1],
        ),
        (
            DeliveryFilter {
                id: Some(4),
                ..by_status(DeliveryStatus::Delivered)
            },
            vec![],
        ),
    ] {
        let replayed = replay(&store, &filter).await;

        assert_eq!(changed(fixture, &completed).await, expected, "{filter:?}");
        assert_eq!(replayed, expected.len() as u64, "{filter:?}");
        complete_again(fixture).await;
    }
}

/// Returns the ids of the deliveries whose due time has changed.
async fn changed(fixture: &Fixture, before: &[Value]) -> Vec<i64> {
    let now = fixture.database.deliveries().await;
    let pairs = now.iter().zip(before);
    let changed = pairs.filter(|(now, before)| now["due_at"] != before["due_at"]);
    let ids = changed.map(|(now, _)| now["id"].as_i64());
    ids.map(|id| id.expect("a number")).collect()
}

/// Undoes what a replay of [`four_deliveries`] changes.
async fn complete_again(fixture: &Fixture) {
    let sql = "UPDATE relay_deliveries SET due_at = NULL, completed_at = created_at,
        status = CASE id WHEN 1 THEN 'delivered' ELSE 'failed' END
        WHERE id IN (1, 4)";
    fixture.database.execute(sql, &[]).await;
}

async fn counts_deliveries_of_endpoints_by_name(fixture: &Fixture) {
    let store = four_deliveries(fixture).await;
    let pause = Pause {
        endpoint: "backup",
        reason: "operator",
        now: ClockReading::Manual(at(300)),
        alert: None,
    };
    let pausing = store.outbox.pause(&pause).await;
    pausing.expect("the query succeeds");
    claim(&store, due("archive", 100)).await;

    let states = store.delivery_catalog.endpoint_states().await;

    let unpaused = |name: &str, waiting, failed| EndpointState {
        name: name.to_owned(),
        paused_at: None,
        pause_reason: String::new(),
        waiting,
        failed,
    };
    let backup = EndpointState {
        paused_at: Some(at(300)),
        pause_reason: "operator".to_owned(),
        ..unpaused("backup", 0, 0)
    };
    // The count of open deliveries includes leased ones.
    assert_eq!(
        states.expect("the query succeeds"),
        [unpaused("app", 1, 1), unpaused("archive", 1, 0), backup]
    );
}

async fn lists_no_endpoint_with_only_successes(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    claim(&store, due("app", 100)).await;
    settle(&store, &[settlement(1, sent("{}"))]).await;

    let states = store.delivery_catalog.endpoint_states().await;

    assert!(states.expect("the query succeeds").is_empty());
}

async fn names_row_with_unknown_status(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10)]).await;
    let table = "relay_deliveries";
    fixture.write_unchecked(table, "status", "lost").await;
    let all = DeliveryFilter::default();

    let found = store.delivery_catalog.find_delivery(1).await;
    let listed = store.delivery_catalog.newest_deliveries(&all, 10).await;

    for result in [found.map(|_| ()), listed.map(|_| ())] {
        let error = result.expect_err("the status is unknown").to_string();
        let expected = "relay_deliveries.status of row 1 ";
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Returns a successful attempt that sent this payload.
fn sent(payload: &str) -> LeaseResult {
    let LeaseResult::Attempted(mut attempted) = attempted(1, NextState::Delivered) else {
        unreachable!("the result is an attempt");
    };
    attempted.sent_payload = Some(payload.to_owned());
    LeaseResult::Attempted(attempted)
}

fn by_id(id: i64) -> DeliveryFilter {
    DeliveryFilter {
        id: Some(id),
        ..DeliveryFilter::default()
    }
}

fn by_endpoint(name: &str) -> DeliveryFilter {
    DeliveryFilter {
        endpoint: Some(name.to_owned()),
        ..DeliveryFilter::default()
    }
}

fn by_status(status: DeliveryStatus) -> DeliveryFilter {
    DeliveryFilter {
        status: Some(status),
        ..DeliveryFilter::default()
    }
}

fn created_since(seconds: i64) -> DeliveryFilter {
    DeliveryFilter {
        since: Some(at(seconds)),
        ..DeliveryFilter::default()
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

async fn list(store: &Store, filter: &DeliveryFilter, limit: u32) -> Vec<Delivery> {
    let catalog = &store.delivery_catalog;
    let listing = catalog.newest_deliveries(filter, limit).await;
    listing.expect("the query succeeds")
}

/// Replays deliveries at second 500.
async fn replay(store: &Store, filter: &DeliveryFilter) -> u64 {
    let replaying = store
        .delivery_catalog
        .replay(filter, ClockReading::Manual(at(500)))
        .await;
    replaying.expect("the query succeeds").changed
}

/// Records deliveries 1 to 4 to `app`: one waits, one has a lease, one has failed and one is delivered.
async fn one_in_each_state(fixture: &Fixture) -> Store {
    let store = fixture.open_for(&["app"]).await;
    record(&store, ["a", "b", "c", "d"].map(|id| uploaded(id, 10))).await;
    claim(&store, due("app", 100)).await;
    let retry = NextState::RetryAfter(Duration::ZERO);
    settle(
        &store,
        &[
            settlement(1, attempted(3, retry)),
            settlement(3, attempted(3, NextState::Failed)),
            settlement(4, attempted(1, NextState::Delivered)),
        ],
    )
    .await;
    store
}

/// Selects deliveries to `app`. The lease of the second delivery ends at 160.
fn unsent(now: i64, with_failed: bool) -> Unsent {
    Unsent {
        endpoint: "app".to_owned(),
        with_failed,
        now: ClockReading::Manual(at(now)),
        limit: 1,
    }
}

async fn moves_unsent_deliveries_by_page(fixture: &Fixture) {
    let store = one_in_each_state(fixture).await;
    let to = MoveTarget {
        endpoint: "new".to_owned(),
        ordered: true,
    };
    let move_page = async |page: Unsent| {
        let moved = store.delivery_catalog.move_deliveries(&to, &page).await;
        moved.expect("the query succeeds")
    };

    let waiting = [
        move_page(unsent(150, false)).await,
        move_page(unsent(150, false)).await,
    ];
    let expired = move_page(unsent(160, false)).await;
    let failed = [
        move_page(unsent(160, true)).await,
        move_page(unsent(160, true)).await,
    ];

    assert_eq!((waiting, expired, failed), ([1, 0], 1, [1, 0]));
    for (id, image, due_at) in [(1, "a", 150), (2, "b", 160), (3, "c", 160)] {
        let moved = find(&store, id).await;
        assert_eq!(moved.endpoint, "new");
        assert_eq!(moved.status, DeliveryStatus::Pending);
        assert_eq!(moved.due_at, Some(at(due_at)));
        assert_eq!((moved.attempts, &*moved.error), (0, ""));
        let row = &fixture.database.deliveries().await[usize::try_from(id - 1).expect("small")];
        assert_eq!(row["image"], image, "the new endpoint is ordered");
    }
    assert_eq!(find(&store, 4).await.endpoint, "app");
}

async fn deletes_unsent_deliveries_by_page(fixture: &Fixture) {
    let store = one_in_each_state(fixture).await;
    let delete_page = async |page: Unsent| {
        let deleted = store.delivery_catalog.delete_deliveries(&page).await;
        deleted.expect("the query succeeds")
    };

    let waiting = [
        delete_page(unsent(150, false)).await,
        delete_page(unsent(150, false)).await,
    ];
    let failed = delete_page(unsent(150, true)).await;

    assert_eq!((waiting, failed), ([1, 0], 1));
    let left = list(&store, &DeliveryFilter::default(), 10).await;
    assert_eq!(ids(&left), [4, 2]);
    assert_eq!(fixture.database.events().await.len(), 2);
    assert_eq!(fixture.database.attempts().await.len(), 1);
}

async fn counts_unsent_deliveries(fixture: &Fixture) {
    let store = one_in_each_state(fixture).await;
    let count = async |page: Unsent| {
        let counted = store.delivery_catalog.count_unsent(&page).await;
        counted.expect("the query succeeds")
    };

    // The limit is that of a page, which does not apply to the count.
    let waiting = [
        count(unsent(150, false)).await,
        count(unsent(160, false)).await,
    ];
    let with_failed = count(unsent(160, true)).await;

    assert_eq!((waiting, with_failed), ([1, 2], 3));
}

async fn counts_waiting_deliveries(fixture: &Fixture) {
    let store = one_in_each_state(fixture).await;

    let waiting = store.delivery_catalog.waiting_deliveries().await;

    let waiting = waiting.expect("the query succeeds");
    assert_eq!(waiting, [("app".to_owned(), 2)]);
}
