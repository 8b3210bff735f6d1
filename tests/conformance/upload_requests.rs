//! `UploadRequests`: the requests for upload URLs that have an idempotency key.

use std::time::Duration;

use cloudflare_images_webhook::clock::ClockReading;
use cloudflare_images_webhook::domain::event::EventKind;
use cloudflare_images_webhook::domain::image::NewImage;
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::store::{
    Begun, NewUploadRequest, Store, UploadAnswer, UploadAttempt, UploadLeaseResult,
};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, image_id};

on_every_backend!(
    first_attempt_inserts_image,
    finished_request_has_its_answer,
    key_belongs_to_one_request,
    existing_image_leaves_no_request,
    request_in_progress_is_leased,
    interrupted_request_is_begun_again,
    only_leased_attempt_stores_its_result,
    removed_request_is_begun_anew,
    finish_inserts_missing_image,
    leaves_long_url_out_of_image,
    deletes_old_requests,
);

/// The time of an attempt, in seconds.
const LEASE_SECONDS: i64 = 30;

const STORED: UploadLeaseResult = UploadLeaseResult::Stored;
const LOST: UploadLeaseResult = UploadLeaseResult::Lost;

async fn first_attempt_inserts_image(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;

    let begun = begin(&store, attempt("key", "1"), 10).await;

    assert_eq!(begun, Begun::First);
    let row = fixture.database.image("image-of-1").await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["created_at"], at(10).to_string());
    let events = fixture.database.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"], EventKind::Created.name());
}

async fn finished_request_has_its_answer(fixture: &Fixture) {
    let store = fixture.open().await;
    begin(&store, attempt("key", "1"), 10).await;

    let finished = finish(&store, attempt("key", "1"), &answer("image-of-1")).await;
    let repeated = begin(&store, attempt("key", "2"), 100).await;

    assert_eq!(finished, STORED);
    assert_eq!(repeated, Begun::Finished(answer("image-of-1")));
    let row = fixture.database.image("image-of-1").await;
    assert_eq!(row["upload_url"], "https://upload.example/image-of-1");
    assert_eq!(row["expires_at"], at(900).to_string());
    assert_eq!(count(fixture, "cloudflare_images").await, 1);
}

async fn key_belongs_to_one_request(fixture: &Fixture) {
    let store = fixture.open().await;
    begin(&store, attempt("key", "1"), 10).await;
    let (image, attempt) = (new_image("other"), attempt("key", "2"));
    let mut request = request(attempt, Some(&image), 100);
    request.request_digest = "another digest";

    let begun = store.upload_requests.begin(&request, reading(100)).await;

    assert_eq!(begun.expect("the query succeeds"), Begun::OtherRequest);
    assert_eq!(count(fixture, "cloudflare_images").await, 1);
}

async fn existing_image_leaves_no_request(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    fixture.database.register("image-of-1").await;
    let before = fixture.database.image("image-of-1").await;

    let begun = begin(&store, attempt("key", "1"), 10).await;

    assert_eq!(begun, Begun::ImageExists);
    assert_eq!(fixture.database.image("image-of-1").await, before);
    assert_eq!(count(fixture, "cloudflare_upload_requests").await, 0);
    assert!(fixture.database.events().await.is_empty());
}

async fn request_in_progress_is_leased(fixture: &Fixture) {
    let store = fixture.open().await;
    begin(&store, attempt("key", "1"), 10).await;

    let before = begin(&store, attempt("key", "2"), 10 + LEASE_SECONDS - 1).await;
    let after = begin(&store, attempt("key", "3"), 10 + LEASE_SECONDS).await;
    let next = begin(&store, attempt("key", "4"), 10 + LEASE_SECONDS).await;

    assert_eq!(before, Begun::Running);
    assert_eq!(after, Begun::Again(Some(image_id("image-of-1"))));
    assert_eq!(next, Begun::Running);
    assert_eq!(count(fixture, "cloudflare_images").await, 1);
}

async fn interrupted_request_is_begun_again(fixture: &Fixture) {
    let store = fixture.open().await;
    let first = attempt("key", "1");
    let without_image = request(first, None, 10);
    let begun = store
        .upload_requests
        .begin(&without_image, reading(10))
        .await;
    assert_eq!(begun.expect("the query succeeds"), Begun::First);

    let interrupted = store.upload_requests.interrupt(&first).await;
    let again = begin(&store, attempt("key", "2"), 11).await;

    assert_eq!(interrupted.expect("the query succeeds"), STORED);
    assert_eq!(again, Begun::Again(None));
}

async fn only_leased_attempt_stores_its_result(fixture: &Fixture) {
    let store = fixture.open().await;
    let (first, second) = (attempt("key", "1"), attempt("key", "2"));
    begin(&store, first, 10).await;
    begin(&store, second, 10 + LEASE_SECONDS).await;
    let requests = &store.upload_requests;

    let finished = finish(&store, first, &answer("image-of-1")).await;
    let interrupted = requests
        .interrupt(&first)
        .await
        .expect("the query succeeds");
    let removed = requests.remove(&first).await.expect("the query succeeds");

    assert_eq!((finished, interrupted, removed), (LOST, LOST, LOST));
    let row = fixture.database.image("image-of-1").await;
    assert_eq!(row["upload_url"], "");
    assert_eq!(finish(&store, second, &answer("image-of-1")).await, STORED);
}

async fn removed_request_is_begun_anew(fixture: &Fixture) {
    let store = fixture.open().await;
    begin(&store, attempt("key", "1"), 10).await;

    let removed = store.upload_requests.remove(&attempt("key", "1")).await;

    assert_eq!(removed.expect("the query succeeds"), STORED);
    assert_eq!(begin(&store, attempt("key", "2"), 11).await, Begun::First);
}

async fn finish_inserts_missing_image(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    let attempt = attempt("key", "1");
    let without_image = request(attempt, None, 10);
    let begun = store
        .upload_requests
        .begin(&without_image, reading(10))
        .await;
    assert_eq!(begun.expect("the query succeeds"), Begun::First);

    let finished = finish(&store, attempt, &answer("made-by-cloudflare")).await;

    assert_eq!(finished, STORED);
    let row = fixture.database.image("made-by-cloudflare").await;
    assert_eq!(
        row["upload_url"],
        "https://upload.example/made-by-cloudflare"
    );
    assert_eq!(fixture.database.events().await.len(), 1);
}

async fn leaves_long_url_out_of_image(fixture: &Fixture) {
    let store = fixture.open().await;
    begin(&store, attempt("key", "1"), 10).await;
    let mut long = answer("image-of-1");
    long.upload_url = format!("https://upload.example/{}", "x".repeat(500));

    let finished = finish(&store, attempt("key", "1"), &long).await;
    let repeated = begin(&store, attempt("key", "2"), 20).await;

    assert_eq!((finished, repeated), (STORED, Begun::Finished(long)));
    assert_eq!(fixture.database.image("image-of-1").await["upload_url"], "");
}

async fn deletes_old_requests(fixture: &Fixture) {
    let store = fixture.open().await;
    for number in 0..25 {
        let key = format!("old {number}");
        begin(&store, attempt(&key, &number.to_string()), 10).await;
    }
    // The requests are old 1,000 seconds later.
    let later = 10 + 1001;
    let old = begin(&store, attempt("old 24", "new"), later).await;
    let after_first = count(fixture, "cloudflare_upload_requests").await;
    begin(&store, attempt("new", "newer"), later).await;

    assert_eq!(old, Begun::First);
    assert_eq!(after_first, 15);
    assert_eq!(count(fixture, "cloudflare_upload_requests").await, 6);
}

fn attempt<'a>(request: &'a str, lease: &'a str) -> UploadAttempt<'a> {
    UploadAttempt { request, lease }
}

fn new_image(id: &str) -> NewImage {
    NewImage {
        cloudflare_id: image_id(id),
        filename: String::new(),
        creator: String::new(),
        metadata: Json::empty_object(),
        expires_at: Some(at(900)),
        require_signed_urls: false,
    }
}

fn answer(id: &str) -> UploadAnswer {
    UploadAnswer {
        cloudflare_id: image_id(id),
        upload_url: format!("https://upload.example/{id}"),
        expires_at: at(900),
    }
}

fn reading(seconds: i64) -> ClockReading {
    ClockReading::Manual(at(seconds))
}

fn request<'a>(
    attempt: UploadAttempt<'a>,
    image: Option<&'a NewImage>,
    seconds: i64,
) -> NewUploadRequest<'a> {
    NewUploadRequest {
        attempt,
        request_digest: "digest",
        image,
        lease_time: Duration::from_secs(LEASE_SECONDS.unsigned_abs()),
        old_before: at(seconds - 1000),
    }
}

/// Begins a request for the image `image-of-` and the lease.
async fn begin(store: &Store, attempt: UploadAttempt<'_>, seconds: i64) -> Begun {
    let image = new_image(&format!("image-of-{}", attempt.lease));
    let request = request(attempt, Some(&image), seconds);
    let begun = store.upload_requests.begin(&request, reading(seconds));
    begun.await.expect("the queries succeed")
}

async fn finish(
    store: &Store,
    attempt: UploadAttempt<'_>,
    answer: &UploadAnswer,
) -> UploadLeaseResult {
    let image = new_image(answer.cloudflare_id.as_str());
    let finishing = store
        .upload_requests
        .finish(&attempt, answer, &image, at(500));
    finishing.await.expect("the queries succeed")
}

async fn count(fixture: &Fixture, table: &str) -> i64 {
    let statement = format!("SELECT count(*) FROM {table}");
    fixture.database.count(&statement).await
}
