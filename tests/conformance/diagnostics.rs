//! `Diagnostics`: facts about the tables.

use cloudflare_images_webhook::domain::outcome::RejectionReason;
use cloudflare_images_webhook::store::{MAX_EXAMINED_ROWS, Parked, RefusalCount, WaitingImages};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, failed, invalid, record, uploaded};

on_every_backend!(
    empty_tables_have_no_facts,
    finds_last_webhook,
    counts_refusals_by_reason,
    counts_waiting_images_before_time,
    counts_failed_deliveries_by_endpoint,
    counts_parked_notifications,
    finds_last_invalid_payload,
    reads_bounded_number_of_rows,
);

async fn empty_tables_have_no_facts(fixture: &Fixture) {
    let facts = fixture.open().await.diagnostics;

    assert_eq!(facts.last_webhook().await.expect("it runs"), None);
    let rejection = facts.last_authenticated_rejection().await;
    assert_eq!(rejection.expect("it runs"), None);
    let refusals = facts.refusals(at(0)).await.expect("it runs");
    assert!(refusals.by_reason.is_empty() && !refusals.is_incomplete);
    assert_eq!(facts.failed_deliveries().await.expect("it runs"), []);
    let parked = facts.parked().await.expect("it runs");
    assert_eq!(
        parked,
        Parked {
            count: 0,
            oldest: None
        }
    );
    assert_eq!(facts.last_invalid_payload().await.expect("it runs"), None);
}

async fn finds_last_webhook(fixture: &Fixture) {
    let store = fixture.open().await;
    fixture.database.register("a").await;
    record(&store, [uploaded("a", 10)]).await;
    fixture
        .database
        .execute_script(
            "INSERT INTO cloudflare_image_logs (event_type) VALUES ('webhook_test'), ('reconciled'), ('made_up')",
        )
        .await;

    let found = store.diagnostics.last_webhook().await.expect("it runs");

    assert_eq!(found, Some(at(10)));
}

async fn counts_refusals_by_reason(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;
    record(&store, [uploaded("b", 100), uploaded("c", 110)]).await;
    record(&store, [invalid(b"{", 120)]).await;
    let counted = RefusalCount {
        minute: at(120),
        reason: RejectionReason::Unauthenticated,
        scheme: "",
        network: "*".to_owned(),
        count: 40,
    };
    let added = store.rejections.add_refusals(&[counted]).await;
    added.expect("it is stored");

    let refusals = store.diagnostics.refusals(at(100)).await.expect("it runs");

    let expected = [
        ("unauthorized", 40),
        ("unknown-image", 2),
        ("invalid-payload", 1),
    ];
    let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(refusals.by_reason, expected);
    assert!(!refusals.is_incomplete);
}

async fn counts_waiting_images_before_time(fixture: &Fixture) {
    let store = fixture.open().await;
    for (id, status, created) in [
        ("a", "pending", "2020-01-01T00:00:00.000000Z"),
        ("b", "draft", "2020-01-02T00:00:00.000000Z"),
        ("c", "uploaded", "2020-01-03T00:00:00.000000Z"),
        ("d", "pending", "2020-03-01T00:00:00.000000Z"),
    ] {
        let insert = format!(
            "INSERT INTO cloudflare_images (cloudflare_id, status, created_at) VALUES ('{id}', '{status}', '{created}')"
        );
        fixture.database.execute_script(&insert).await;
    }
    // 2020-02-01T00:00:00Z
    let counting = store.diagnostics.waiting_images(at(1_580_515_200));

    let expected = WaitingImages {
        examined: 3,
        waiting: 2,
    };
    assert_eq!(counting.await.expect("it runs"), expected);
}

async fn counts_failed_deliveries_by_endpoint(fixture: &Fixture) {
    let store = fixture.open().await;
    for (endpoint, status) in [
        ("b", "failed"),
        ("a", "failed"),
        ("b", "failed"),
        ("b", "delivered"),
    ] {
        let insert = format!(
            "INSERT INTO relay_deliveries (event_id, endpoint, status, created_at, completed_at)
             VALUES ('evt_1', '{endpoint}', '{status}', '2020-01-01T00:00:00.000000Z', '2020-01-01T00:00:00.000000Z')"
        );
        fixture.database.execute_script(&insert).await;
    }

    let counts = store
        .diagnostics
        .failed_deliveries()
        .await
        .expect("it runs");

    assert_eq!(counts, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
}

async fn counts_parked_notifications(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;
    record(&store, [failed("b", 20)]).await;

    let parked = store.diagnostics.parked().await.expect("it runs");

    let oldest = store.rejection_catalog.find_rejection(1).await;
    let oldest = oldest.expect("it runs").expect("a row").received_at;
    let expected = Parked {
        count: 2,
        oldest: Some(oldest),
    };
    assert_eq!(parked, expected);
}

async fn finds_last_invalid_payload(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [invalid(b"{}", 10)]).await;
    record(&store, [invalid(b"[]", 20)]).await;
    record(&store, [uploaded("a", 30)]).await;

    let found = store.diagnostics.last_invalid_payload().await;

    assert_eq!(found.expect("it runs"), Some(2));
}

async fn reads_bounded_number_of_rows(fixture: &Fixture) {
    let store = fixture.open().await;
    let limit = u64::from(MAX_EXAMINED_ROWS);
    record(&store, [invalid(b"{}", 10)]).await;
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n <= {limit})"
    );
    let time = "'2020-01-01T00:00:00.000000Z'";
    let time = if fixture.database.is_postgres() {
        format!("CAST({time} AS timestamptz)")
    } else {
        time.to_owned()
    };
    let script = format!(
        "{numbers} INSERT INTO webhook_rejections (received_at, status, reason, state, parked_at)
             SELECT {time}, 404, 'unknown-image', 'parked', {time} FROM numbers;
         {numbers} INSERT INTO cloudflare_images (cloudflare_id, created_at) SELECT 'image-' || n, {time} FROM numbers;
         {numbers} INSERT INTO relay_deliveries (event_id, endpoint, status, created_at, completed_at)
             SELECT 'evt_1', 'app', 'failed', {time}, {time} FROM numbers"
    );
    fixture.database.execute_script(&script).await;
    let facts = &store.diagnostics;

    let refusals = facts.refusals(at(0)).await.expect("it runs");
    let waiting = facts.waiting_images(at(2_000_000_000)).await;
    let failed = facts.failed_deliveries().await.expect("it runs");

    assert_eq!(refusals.by_reason, [("unknown-image".to_owned(), limit)]);
    assert!(refusals.is_incomplete);
    let waiting = waiting.expect("it runs");
    assert_eq!((waiting.examined, waiting.waiting), (limit, limit));
    assert_eq!(failed, [("app".to_owned(), limit)]);
    assert_eq!(facts.parked().await.expect("it runs").count, limit);
    // The invalid payload is older than the rows that are read.
    assert_eq!(facts.last_invalid_payload().await.expect("it runs"), None);
}
