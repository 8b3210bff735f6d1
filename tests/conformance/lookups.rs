//! `Lookups` and `CallLimit`: the queue of images to look up at Cloudflare, and the shared limit on calls.

use std::sync::Arc;
use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::detail::ReportedDetails;
use cloudflare_images_webhook::domain::event::Subscriptions;
use cloudflare_images_webhook::domain::id::CloudflareId;
use cloudflare_images_webhook::domain::image::{NewImage, Status};
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::domain::notification::{
    Body, Content, Hint, HintedImage, InvalidBody, Notification, Report, ReportedStatus,
    RequestInfo, UnknownImages,
};
use cloudflare_images_webhook::domain::outcome::{Outcome, RejectionReason};
use cloudflare_images_webhook::domain::timestamp::Timestamp;
use cloudflare_images_webhook::store::{
    ImagePage, ImagePosition, Lookup, LookupClaim, Store, TakenCall,
};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, image_id, record, uploaded};

on_every_backend!(
    queues_only_old_waiting_images,
    reads_images_in_pages,
    leases_lookup_for_one_claim,
    claims_share_due_lookups,
    removes_settled_images_from_queue,
    removes_deleted_images_from_queue,
    postpones_lookup_until_due,
    claims_only_images_since,
    records_expired_image_and_event,
    webhook_wins_over_late_lookup,
    lookup_does_not_restore_deleted_row,
    peeks_without_queuing,
    finds_image_of_any_status,
    accepts_unusual_rows,
    hint_makes_lookup_due,
    hint_without_match_is_rejected,
    shares_limit_on_calls,
    delays_calls,
);

/// The lease of the claims.
const LEASE: Duration = Duration::from_secs(100);

/// The time of the claims, in seconds since 1970.
const NOW: i64 = 5_000;

async fn add(store: &Store, id: &str, created: i64) {
    let image = NewImage {
        cloudflare_id: image_id(id),
        filename: String::new(),
        creator: String::new(),
        metadata: Json::empty_object(),
        expires_at: Some(at(created + 1_800)),
        require_signed_urls: false,
    };
    let adding = store.image_catalog.add(&image, at(created));
    adding.await.expect("the image is added");
}

async fn delete(store: &Store, id: &str) {
    let id = image_id(id);
    let deleting = store.image_catalog.delete(&id, at(20));
    deleting.await.expect("the image is deleted");
}

async fn queue_page(
    store: &Store,
    after: Option<&ImagePosition>,
    limit: u32,
) -> Option<ImagePosition> {
    let page = page(after, limit);
    store.lookups.queue(&page).await.expect("a page")
}

fn page(after: Option<&ImagePosition>, limit: u32) -> ImagePage<'_> {
    ImagePage {
        after,
        created_before: at(1_000),
        limit,
        now: ClockReading::Manual(at(NOW)),
    }
}

async fn claim_at(store: &Store, seconds: i64, limit: u32) -> Vec<Lookup> {
    let claim = LookupClaim {
        limit,
        lease: LEASE,
        since: None,
        now: ClockReading::Manual(at(seconds)),
    };
    let claimed = store.lookups.claim(&claim).await.expect("a claim");
    claimed.lookups
}

async fn claim(store: &Store) -> Vec<Lookup> {
    claim_at(store, NOW, 100).await
}

fn ids(lookups: &[Lookup]) -> Vec<&str> {
    let ids = lookups.iter().map(|lookup| lookup.cloudflare_id.as_str());
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids
}

fn report(id: &CloudflareId, status: ReportedStatus, seconds: i64) -> Arc<Notification> {
    Arc::new(Notification {
        content: Content::Report(Report {
            cloudflare_id: id.clone(),
            status: Some(status),
            reported_at: Some(at(seconds)),
            details: ReportedDetails::default(),
        }),
        payload: Json::from_canonical(r#"{"found":false}"#.to_owned()),
        received_at: at(NOW),
        request_info: RequestInfo::default(),
    })
}

async fn queued(fixture: &Fixture) -> i64 {
    fixture
        .database
        .count("SELECT count(*) FROM cloudflare_image_lookups")
        .await
}

async fn queues_only_old_waiting_images(fixture: &Fixture) {
    let store = fixture.open_for(&[]).await;
    for (id, created) in [("old", 10), ("settled", 20), ("young", 2_000)] {
        add(&store, id, created).await;
    }
    record(&store, [uploaded("settled", 30)]).await;

    queue_page(&store, None, 100).await;
    queue_page(&store, None, 100).await;

    let lookups = claim(&store).await;
    assert_eq!(ids(&lookups), ["old"]);
    let lookup = &lookups[0];
    assert_eq!(lookup.status, Status::Pending);
    assert_eq!(lookup.expires_at, Some(at(1_810)));
    assert_eq!(lookup.attempts, 1);
}

async fn reads_images_in_pages(fixture: &Fixture) {
    let store = fixture.open().await;
    // All have the same age, as after an import.
    for number in 0..7 {
        add(&store, &format!("image-{number}"), 10).await;
    }

    let (mut position, mut pages) = (None, 0);
    while let Some(last) = queue_page(&store, position.as_ref(), 3).await {
        position = Some(last);
        pages += 1;
    }

    assert_eq!(pages, 3);
    assert_eq!(claim(&store).await.len(), 7);
}

async fn leases_lookup_for_one_claim(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;

    assert_eq!(ids(&claim_at(&store, NOW, 100).await), ["a"]);
    assert!(claim_at(&store, NOW + 99, 100).await.is_empty());
    let again = claim_at(&store, NOW + 100, 100).await;

    assert_eq!(ids(&again), ["a"]);
    assert_eq!(again[0].attempts, 2);
}

async fn claims_share_due_lookups(fixture: &Fixture) {
    let (store, other) = (fixture.open().await, fixture.open().await);
    for number in 0..40 {
        add(&store, &format!("image-{number}"), 10).await;
    }
    queue_page(&store, None, 100).await;

    let mut all = Vec::new();
    for _ in 0..5 {
        let (one, two) = tokio::join!(claim_at(&store, NOW, 5), claim_at(&other, NOW, 5));
        all.extend(one);
        all.extend(two);
    }
    all.extend(claim(&store).await);

    let mut found = ids(&all);
    let count = found.len();
    found.dedup();
    assert_eq!((count, found.len()), (40, 40));
}

async fn removes_settled_images_from_queue(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    record(&store, [uploaded("a", 30)]).await;

    assert!(claim(&store).await.is_empty());

    assert_eq!(queued(fixture).await, 0);
}

async fn removes_deleted_images_from_queue(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    delete(&store, "a").await;

    assert!(claim(&store).await.is_empty());

    assert_eq!(queued(fixture).await, 0);
}

async fn postpones_lookup_until_due(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);

    let now = ClockReading::Manual(at(NOW));
    let postponing = store
        .lookups
        .postpone(&lookup.key, Duration::from_mins(1), now);
    postponing.await.expect("it is postponed");

    assert!(claim_at(&store, NOW + 59, 100).await.is_empty());
    store.lookups.make_due(now).await.expect("it is due");
    assert_eq!(ids(&claim_at(&store, NOW, 100).await), ["a"]);
    store
        .lookups
        .make_due(now)
        .await
        .expect("a leased one stays");
    assert!(claim_at(&store, NOW, 100).await.is_empty());
}

async fn claims_only_images_since(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "early", 10).await;
    add(&store, "late", 500).await;
    queue_page(&store, None, 100).await;

    let claim = LookupClaim {
        limit: 100,
        lease: LEASE,
        since: Some(at(500)),
        now: ClockReading::Manual(at(NOW)),
    };
    let claimed = store.lookups.claim(&claim).await.expect("a claim");

    assert_eq!(ids(&claimed.lookups), ["late"]);
    let from = ImagePosition::before(at(500));
    let peeked = store.lookups.peek(&page(Some(&from), 100)).await;
    let (_, lookups) = peeked.expect("a page").expect("images follow");
    assert_eq!(ids(&lookups), ["late"]);
}

async fn records_expired_image_and_event(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);

    let expired = report(&lookup.cloudflare_id, ReportedStatus::Expired, 1_810);
    let found = [(lookup.key, expired)];
    let recorded = store.lookups.record(&found, at(NOW)).await;

    let outcomes = recorded.expect("it is recorded");
    assert_eq!(outcomes, [Outcome::Applied(Status::Expired)]);
    let row = fixture.database.image("a").await;
    assert_eq!(row["status"], "expired");
    assert_eq!(row["updated_at"], at(NOW).to_string());
    let logs = fixture.database.logs().await;
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0]["event_type"], "reconciled");
    let events = fixture.database.events().await;
    let last = events.last().expect("an event");
    assert_eq!(last["event"], "updated");
    assert_eq!(queued(fixture).await, 0);
}

async fn webhook_wins_over_late_lookup(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);
    record(&store, [uploaded("a", 40)]).await;
    let before = fixture.database.images_and_logs().await;

    let expired = report(&lookup.cloudflare_id, ReportedStatus::Expired, 1_810);
    let found = [(lookup.key, expired)];
    let recorded = store.lookups.record(&found, at(NOW)).await;

    let outcomes = recorded.expect("it is recorded");
    assert_eq!(outcomes, [Outcome::Stale(Status::Uploaded)]);
    assert_eq!(fixture.database.images_and_logs().await, before);
}

async fn lookup_does_not_restore_deleted_row(fixture: &Fixture) {
    let store = fixture
        .open_with(UnknownImages::Create, Subscriptions::default())
        .await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);
    delete(&store, "a").await;

    let status = ReportedStatus::Uploaded { uploaded_at: None };
    let found = [(lookup.key, report(&lookup.cloudflare_id, status, 40))];
    let recorded = store.lookups.record(&found, at(NOW)).await;

    let unknown = Outcome::Rejected(RejectionReason::UnknownImage);
    assert_eq!(recorded.expect("it is recorded"), [unknown]);
    let images = "SELECT count(*) FROM cloudflare_images";
    assert_eq!(fixture.database.count(images).await, 0);
    assert!(fixture.database.rejections().await.is_empty());
    assert_eq!(queued(fixture).await, 0);
}

async fn peeks_without_queuing(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;

    let peeked = store.lookups.peek(&page(None, 100)).await;

    let (last, lookups) = peeked.expect("a page").expect("an image");
    assert_eq!(ids(&lookups), ["a"]);
    assert_eq!(queued(fixture).await, 0);
    let next = store.lookups.peek(&page(Some(&last), 100)).await;
    assert!(next.expect("a page").is_none());
}

async fn finds_image_of_any_status(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    record(&store, [uploaded("a", 40)]).await;

    let lookup = store.lookups.find(&image_id("a")).await;
    let none = store.lookups.find(&image_id("b")).await;

    let lookup = lookup.expect("it works").expect("a row");
    assert_eq!(lookup.status, Status::Uploaded);
    assert!(lookup.is_final());
    assert!(none.expect("it works").is_none());
}

/// Rows as other programs write them: times without a zone, a UUID without hyphens, an end that never comes.
async fn accepts_unusual_rows(fixture: &Fixture) {
    let store = fixture.open().await;
    let (id, end) = if fixture.database.is_postgres() {
        ("0190a000-0000-4000-8000-00000000000a", "infinity")
    } else {
        ("0190a000000040008000000000000000", "never")
    };
    let script = format!(
        "INSERT INTO cloudflare_images (id, cloudflare_id, created_at, expires_at)
             VALUES ('{id}', 'a', '1970-01-01 00:00:10', '{end}')"
    );
    fixture.database.execute_script(&script).await;

    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);

    assert_eq!(lookup.expires_at, None);
    let status = ReportedStatus::Uploaded { uploaded_at: None };
    let found = [(lookup.key, report(&lookup.cloudflare_id, status, 40))];
    let recorded = store.lookups.record(&found, at(NOW)).await;
    let outcomes = recorded.expect("it is recorded");
    assert_eq!(outcomes, [Outcome::Applied(Status::Uploaded)]);
    assert_eq!(queued(fixture).await, 0);
}

fn hint(candidates: &[&str]) -> Notification {
    let hint = Hint {
        image: HintedImage::Candidates(candidates.iter().map(|id| image_id(id)).collect()),
        invalid: InvalidBody {
            body: Body::from(&b"{}"[..]),
            problem: "it cannot be read".to_owned(),
        },
    };
    Notification {
        content: Content::Hint(hint),
        ..uploaded("none", NOW)
    }
}

async fn hint_makes_lookup_due(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    add(&store, "a", 10).await;
    queue_page(&store, None, 100).await;
    let lookup = claim(&store).await.remove(0);
    let postponing = store.lookups.postpone(
        &lookup.key,
        Duration::from_hours(1),
        ClockReading::Manual(at(NOW)),
    );
    postponing.await.expect("it is postponed");

    let outcomes = record(&store, [hint(&["x", "a"]), hint(&["a"])]).await;

    assert_eq!(outcomes, [Outcome::Accepted(Status::Pending); 2]);
    let types = fixture.database.log_types().await;
    assert_eq!(types, ["webhook_accepted"; 2]);
    let due = "SELECT count(*) FROM cloudflare_image_lookups WHERE leased_until IS NULL AND due_at <= '2100-01-01T00:00:00.000000Z'";
    assert_eq!(fixture.database.count(due).await, 1);
    let now = Timestamp::from_unix_seconds(4_000_000_000).expect("a time");
    let claim = LookupClaim {
        limit: 1,
        lease: LEASE,
        since: None,
        now: ClockReading::Manual(now),
    };
    let claimed = store.lookups.claim(&claim).await.expect("a claim");
    assert_eq!(ids(&claimed.lookups), ["a"]);
}

async fn hint_without_match_is_rejected(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    for id in ["a", "b"] {
        add(&store, id, 10).await;
    }

    let outcomes = record(&store, [hint(&["a", "b"]), hint(&["x"])]).await;

    let invalid = Outcome::Rejected(RejectionReason::InvalidPayload);
    assert_eq!(outcomes, [invalid; 2]);
    assert_eq!(fixture.database.rejections().await.len(), 2);
    assert_eq!(queued(fixture).await, 0);
}

async fn shares_limit_on_calls(fixture: &Fixture) {
    let (store, other) = (fixture.open().await, fixture.open().await);
    let now = ClockReading::Manual(at(NOW));
    let (interval, max_ahead) = (Duration::from_secs(10), Duration::from_secs(25));

    let mut taken = Vec::new();
    for store in [&store, &other, &store, &other] {
        let taking = store.call_limit.take_call(interval, max_ahead, now).await;
        taken.push(taking.expect("the limit is read"));
    }

    let seconds = Duration::from_secs;
    assert_eq!(
        taken,
        [
            TakenCall::Taken(seconds(0)),
            TakenCall::Taken(seconds(10)),
            TakenCall::Taken(seconds(20)),
            TakenCall::Refused(seconds(30)),
        ]
    );
    let later = ClockReading::Manual(at(NOW + 100));
    let taking = store.call_limit.take_call(interval, max_ahead, later).await;
    assert_eq!(
        taking.expect("the limit is read"),
        TakenCall::Taken(seconds(0))
    );
}

async fn delays_calls(fixture: &Fixture) {
    let store = fixture.open().await;
    let limit = &store.call_limit;
    let now = ClockReading::Manual(at(NOW));
    let (interval, seconds) = (Duration::from_secs(10), Duration::from_secs);

    limit.delay_calls(seconds(60), now).await.expect("delayed");
    limit.delay_calls(seconds(30), now).await.expect("delayed");

    let taking = limit.take_call(interval, seconds(59), now).await;
    let refused = TakenCall::Refused(seconds(60));
    assert_eq!(taking.expect("the limit is read"), refused);
    let taking = limit.take_call(interval, seconds(60), now).await;
    let taken = TakenCall::Taken(seconds(60));
    assert_eq!(taking.expect("the limit is read"), taken);
}
