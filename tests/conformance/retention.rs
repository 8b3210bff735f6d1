//! `Retention`: counting and deleting old rows, page by page.

use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::notification::UnknownImages;
use cloudflare_images_webhook::store::{
    Claim, ExpiredLeases, LeaseResult, PrunableTable, PruneMode, PruneQuery, PrunedPage,
    Settlement, Store,
};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, image_id, record, uploaded};

on_every_backend!(
    deletes_old_rows_page_by_page,
    counts_old_rows_without_deleting,
    deletes_only_webhook_audit_entries,
    counts_age_from_last_parking,
    deletes_no_due_deliveries,
    deletes_attempts_and_events_with_last_delivery,
);

/// Rows before this second are old.
const BEFORE: i64 = 30;

async fn deletes_old_rows_page_by_page(fixture: &Fixture) {
    let store = with_four_rows(fixture).await;
    for table in PrunableTable::ALL {
        let query = delete_query(table);

        let first = prune(&store, query).await;
        let second = prune(&store, query_after(2, query)).await;
        let third = prune(&store, query_after(4, query)).await;

        // The third row is exactly at the limit, so it is not old.
        assert_eq!(first, Some(page(2, 2)), "{table:?}");
        assert_eq!(second, Some(page(4, 0)), "{table:?}");
        assert_eq!(third, None, "{table:?}");
        assert_eq!(rows(fixture, table).await, 2, "{table:?}");
    }
}

async fn counts_old_rows_without_deleting(fixture: &Fixture) {
    let store = with_four_rows(fixture).await;
    for table in PrunableTable::ALL {
        let query = PruneQuery {
            mode: PruneMode::Count,
            ..delete_query(table)
        };

        let first = prune(&store, query).await;
        let all = prune(&store, PruneQuery { limit: 10, ..query }).await;
        let after_first = prune(&store, query_after(1, query)).await;

        assert_eq!(first, Some(page(2, 2)), "{table:?}");
        assert_eq!(all, Some(page(4, 2)), "{table:?}");
        assert_eq!(after_first, Some(page(3, 1)), "{table:?}");
        assert_eq!(rows(fixture, table).await, 4, "{table:?}");
    }
}

async fn deletes_only_webhook_audit_entries(fixture: &Fixture) {
    let store = fixture.open().await;
    let sql = "INSERT INTO cloudflare_image_logs (event_type, timestamp)
        VALUES ('upload_url_requested', '1970-01-01T00:00:10.000000Z')";
    fixture.database.execute(sql, &[]).await;
    let query = delete_query(PrunableTable::AuditLog);
    let count = PruneQuery {
        mode: PruneMode::Count,
        ..query
    };

    let counted = prune(&store, count).await;
    let deleted = prune(&store, query).await;

    let without_pruned_rows = PrunedPage {
        last_id: 1,
        has_old_rows: true,
        pruned: 0,
    };
    assert_eq!([counted, deleted], [Some(without_pruned_rows); 2]);
    assert_eq!(fixture.database.logs().await.len(), 1);
}

async fn counts_age_from_last_parking(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10), uploaded("b", 10)]).await;
    let parking = store.rejections.park(2, &image_id("b"), at(BEFORE)).await;
    parking.expect("the query succeeds");

    let pruned = prune(&store, delete_query(PrunableTable::Rejections)).await;

    assert_eq!(pruned, Some(page(2, 1)));
    assert_eq!(fixture.database.rejections().await[0]["id"], 2);
}

async fn deletes_no_due_deliveries(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    record(&store, [uploaded("a", 10), uploaded("b", 11)]).await;
    settle_first(&store, "app").await;
    let query = delete_query(PrunableTable::Deliveries);
    let count = PruneQuery {
        mode: PruneMode::Count,
        ..query
    };

    let counted = prune(&store, count).await;
    let deleted = prune(&store, query).await;

    assert_eq!([counted, deleted], [Some(page(2, 1)); 2]);
    assert_eq!(fixture.database.deliveries().await[0]["id"], 2);
}

async fn deletes_attempts_and_events_with_last_delivery(fixture: &Fixture) {
    let store = fixture.open_for(&["app", "archive"]).await;
    record(&store, [uploaded("a", 10)]).await;
    let query = delete_query(PrunableTable::Deliveries);
    for delivery in [1, 2] {
        let sql = format!(
            "INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms)
             VALUES ({delivery}, 1, '1970-01-01T00:00:20.000000Z', 5)"
        );
        fixture.database.execute(&sql, &[]).await;
    }

    settle_first(&store, "app").await;
    prune(&store, query).await;
    let events = fixture.database.events().await.len();
    let attempts = fixture.database.attempts().await;
    settle_first(&store, "archive").await;
    prune(&store, query).await;

    assert_eq!(events, 1);
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["delivery_id"], 2);
    assert_eq!(fixture.database.events().await.len(), 0);
    assert_eq!(fixture.database.attempts().await.len(), 0);
}

fn delete_query(table: PrunableTable) -> PruneQuery {
    PruneQuery {
        table,
        after: 0,
        limit: 2,
        before: at(BEFORE),
        mode: PruneMode::Delete,
    }
}

fn query_after(after: i64, query: PruneQuery) -> PruneQuery {
    PruneQuery { after, ..query }
}

/// Returns a page with this number of old rows.
fn page(last_id: i64, pruned: u64) -> PrunedPage {
    PrunedPage {
        last_id,
        has_old_rows: pruned > 0,
        pruned,
    }
}

async fn prune(store: &Store, query: PruneQuery) -> Option<PrunedPage> {
    let pruning = store.retention.prune_page(&query).await;
    pruning.expect("the query succeeds")
}

/// Fills each table with four rows. Two of them are old.
async fn with_four_rows(fixture: &Fixture) -> Store {
    let notifications = || [10, 29, BEFORE, 31].map(|seconds| uploaded("a", seconds));
    let rejecting = fixture
        .open_with(UnknownImages::Reject, Subscriptions::default())
        .await;
    record(&rejecting, notifications()).await;
    let store = fixture.open_for(&["app"]).await;
    record(&store, notifications()).await;
    for _ in 0..4 {
        settle_first(&store, "app").await;
    }
    for table in PrunableTable::ALL {
        assert_eq!(rows(fixture, table).await, 4, "{table:?}");
    }
    store
}

/// Completes the endpoint's first due delivery.
async fn settle_first(store: &Store, endpoint: &str) {
    let claim = Claim {
        endpoint,
        limit: 1,
        ordered: false,
        ignores_pause: false,
        expired_leases: ExpiredLeases::One,
        now: ClockReading::Manual(at(100)),
        duration: Duration::from_secs(100),
        lease: "lease",
    };
    let claimed = store
        .outbox
        .claim(&claim)
        .await
        .expect("the query succeeds");
    let settlement = Settlement {
        delivery: claimed.leased[0].id,
        lease: "lease".into(),
        now: ClockReading::Manual(at(100)),
        ordered: false,
        result: LeaseResult::Filtered,
    };
    let settling = store.outbox.settle(&[settlement]).await;
    assert_eq!(settling.expect("the query succeeds").lost_leases, 0);
}

async fn rows(fixture: &Fixture, table: PrunableTable) -> i64 {
    let sql = format!("SELECT count(*) FROM {}", table.name());
    fixture.database.count(&sql).await
}
