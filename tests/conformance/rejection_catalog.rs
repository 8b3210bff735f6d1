//! `RejectionCatalog`: listing and showing rejections.

use cloudflare_images_webhook::domain::outcome::RejectionReason;
use cloudflare_images_webhook::domain::rejection::RejectionState;
use cloudflare_images_webhook::store::RejectionFilter;

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, failed, record, uploaded};
use crate::rejections::{apply, ids, rejections_of_every_kind, unapplied};

on_every_backend!(
    finds_no_rejection_for_unknown_id,
    lists_newest_without_bodies_up_to_limit,
    filters_by_reason_state_and_time,
    lists_unapplied_with_bodies_page_by_page,
    filters_unapplied_by_reason_state_and_time,
    names_row_with_unknown_state,
);

async fn finds_no_rejection_for_unknown_id(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;

    let found = store.rejection_catalog.find_rejection(2).await;

    assert!(found.expect("the query succeeds").is_none());
}

async fn lists_newest_without_bodies_up_to_limit(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, ["a", "b", "c"].map(|id| uploaded(id, 10))).await;
    let all = RejectionFilter::default();

    let listed = store.rejection_catalog.newest_rejections(&all, 2).await;

    let listed = listed.expect("the query succeeds");
    assert_eq!(ids(&listed), [3, 2]);
    assert!(listed.iter().all(|rejection| rejection.body.is_none()));
    assert_eq!(listed[0].cloudflare_id.as_deref(), Some("c"));
    assert!(listed[0].body_bytes > 0);
}

async fn filters_by_reason_state_and_time(fixture: &Fixture) {
    let store = rejections_of_every_kind(fixture).await;

    for (filter, expected) in filters() {
        let listed = store
            .rejection_catalog
            .newest_rejections(&filter, 10)
            .await
            .expect("the query succeeds");

        assert_eq!(ids(&listed), expected, "{filter:?}");
    }
}

async fn lists_unapplied_with_bodies_page_by_page(fixture: &Fixture) {
    let store = rejections_of_every_kind(fixture).await;
    let all = RejectionFilter::default();
    fixture.database.register("a").await;
    apply(&store, &[(2, uploaded("a", 20))]).await;
    record(&store, [failed("c", 50)]).await;

    let first = unapplied(&store, &all, 0, 2).await;
    let second = unapplied(&store, &all, 3, 2).await;

    // The second rejection is applied. The fourth counts refused requests and has no body.
    assert_eq!(ids(&first), [1, 3]);
    assert_eq!(ids(&second), [5]);
    let body = first[0].body.as_ref().expect("a body");
    assert_eq!(body.as_bytes(), b"{");
}

async fn filters_unapplied_by_reason_state_and_time(fixture: &Fixture) {
    let store = rejections_of_every_kind(fixture).await;

    for (filter, mut expected) in filters() {
        let listed = unapplied(&store, &filter, 0, 10).await;

        // The fourth rejection counts refused requests and has no body.
        expected.retain(|id| *id != 4);
        expected.reverse();
        assert_eq!(ids(&listed), expected, "{filter:?}");
    }
}

async fn names_row_with_unknown_state(fixture: &Fixture) {
    let store = fixture.open().await;
    record(&store, [uploaded("a", 10)]).await;
    let table = "webhook_rejections";
    fixture.write_unchecked(table, "state", "lost").await;
    let all = RejectionFilter::default();

    let found = store.rejection_catalog.find_rejection(1).await;
    let listed = store.rejection_catalog.newest_rejections(&all, 10).await;

    for result in [found.map(|_| ()), listed.map(|_| ())] {
        let error = result.expect_err("the state is unknown").to_string();
        let expected = "webhook_rejections.state of row 1 ";
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Returns filters, and the ids that each selects from [`rejections_of_every_kind`], newest first.
fn filters() -> [(RejectionFilter, Vec<i64>); 9] {
    let all = RejectionFilter::default;
    let with_reason = |reason| RejectionFilter {
        reason: Some(reason),
        ..all()
    };
    let with_state = |state| RejectionFilter {
        state: Some(state),
        ..all()
    };
    let since = |seconds| RejectionFilter {
        since: Some(at(seconds)),
        ..all()
    };
    [
        (all(), vec![4, 3, 2, 1]),
        (with_reason(RejectionReason::UnknownImage), vec![3, 2]),
        (with_reason(RejectionReason::AddressNotAllowed), vec![]),
        (with_state(RejectionState::Stored), vec![1]),
        (with_state(RejectionState::Counted), vec![4]),
        (with_state(RejectionState::Applied), vec![]),
        (since(30), vec![4, 3]),
        (since(41), vec![]),
        (
            RejectionFilter {
                reason: Some(RejectionReason::UnknownImage),
                state: Some(RejectionState::Parked),
                since: Some(at(21)),
            },
            vec![3],
        ),
    ]
}
