//! `ImageCatalog`: adding, showing and deleting images.

use cloudflare_images_webhook::domain::event::EventKind;
use cloudflare_images_webhook::domain::image::{Image, NewImage, Status};
use cloudflare_images_webhook::domain::json::Json;
use cloudflare_images_webhook::store::{AddResult, DeleteResult, SetResult, Store, StoreError};

use crate::fixture::{Fixture, on_every_backend};
use crate::notifications::{at, failed, image_id, record, uploaded};

on_every_backend!(
    adds_image_with_its_fields,
    leaves_existing_image_unchanged,
    publishes_created_image,
    stores_upload_url,
    finds_no_image_for_unknown_id,
    lists_last_changed_first_up_to_limit,
    lists_images_of_one_status,
    deletes_image_but_not_audit_log,
    publishes_deleted_image,
    deletes_no_image_for_unknown_id,
    fails_if_trigger_suppresses_deletion,
    names_row_with_unknown_status,
);

async fn adds_image_with_its_fields(fixture: &Fixture) {
    let store = fixture.open().await;

    let result = add(&store, "a", 10).await;

    assert_eq!(result, AddResult::Added);
    let found = find(&store, "a").await.expect("a row");
    assert_eq!(found.cloudflare_id, image_id("a"));
    assert_eq!(found.state.status, Status::Pending);
    assert_eq!(found.state.status_at, None);
    assert_eq!(found.state.details.filename.value, "cat.jpg");
    assert_eq!(found.state.details.creator.value, "user-1");
    let metadata: serde_json::Value =
        serde_json::from_str(found.metadata.as_str()).expect("the metadata is JSON");
    assert_eq!(metadata, serde_json::json!({"album": 7}));
    assert_eq!(found.created_at, at(10));
    assert_eq!(found.updated_at, at(10));
}

async fn leaves_existing_image_unchanged(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    fixture.database.register("a").await;
    let before = fixture.database.image("a").await;

    let result = add(&store, "a", 10).await;

    assert_eq!(result, AddResult::Exists);
    assert_eq!(fixture.database.image("a").await, before);
    assert!(events(fixture).await.is_empty());
}

async fn publishes_created_image(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;

    add(&store, "a", 10).await;

    assert_eq!(events(fixture).await, [EventKind::Created.name()]);
    let delivery = fixture.database.deliveries().await.remove(0);
    assert_eq!(delivery["endpoint"], "app");
    assert_eq!(delivery["due_at"], at(10).to_string());
}

async fn stores_upload_url(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    add(&store, "a", 10).await;
    let catalog = &store.image_catalog;
    let set = async |id| {
        let id = image_id(id);
        let setting = catalog.set_upload_url(&id, "https://upload.example/a", at(20));
        setting.await.expect("the query succeeds")
    };

    let results = (set("a").await, set("b").await);

    assert_eq!(results, (SetResult::Set, SetResult::NotFound));
    let row = fixture.database.image("a").await;
    assert_eq!(row["upload_url"], "https://upload.example/a");
    assert_eq!(row["updated_at"], at(20).to_string());
    assert_eq!(row["expires_at"], at(610).to_string());
    assert_eq!(
        events(fixture).await,
        [EventKind::Created.name()],
        "the URL is not published"
    );
}

async fn finds_no_image_for_unknown_id(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;

    let found = find(&store, "b").await;

    assert!(found.is_none());
}

async fn lists_last_changed_first_up_to_limit(fixture: &Fixture) {
    let store = fixture.open().await;
    for (id, seconds) in [("c", 10), ("b", 20), ("d", 30), ("a", 20)] {
        add(&store, id, seconds).await;
    }

    let all = list(&store, None, 10).await;
    let first = list(&store, None, 3).await;

    // Images that changed at the same time are in the order of their ids.
    assert_eq!(all, ["d", "a", "b", "c"]);
    assert_eq!(first, ["d", "a", "b"]);
}

async fn lists_images_of_one_status(fixture: &Fixture) {
    let store = fixture.open().await;
    for id in ["a", "b", "c", "d"] {
        add(&store, id, 10).await;
    }
    let reports = [uploaded("a", 20), uploaded("c", 30), failed("b", 40)];
    record(&store, reports).await;

    assert_eq!(list(&store, Some(Status::Uploaded), 10).await, ["c", "a"]);
    assert_eq!(list(&store, Some(Status::Uploaded), 1).await, ["c"]);
    assert_eq!(list(&store, Some(Status::Pending), 10).await, ["d"]);
    assert!(list(&store, Some(Status::Expired), 10).await.is_empty());
}

async fn deletes_image_but_not_audit_log(fixture: &Fixture) {
    let store = fixture.open().await;
    add(&store, "a", 10).await;
    add(&store, "b", 10).await;
    record(&store, [uploaded("a", 20)]).await;

    let result = delete(&store, "a").await.expect("the query succeeds");

    assert_eq!(result, DeleteResult::Deleted);
    assert_eq!(list(&store, None, 10).await, ["b"]);
    assert_eq!(fixture.database.logs().await.len(), 1);
}

async fn publishes_deleted_image(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    add(&store, "a", 10).await;

    delete(&store, "a").await.expect("the query succeeds");

    let kinds = [EventKind::Created.name(), EventKind::Deleted.name()];
    assert_eq!(events(fixture).await, kinds);
}

async fn deletes_no_image_for_unknown_id(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;

    let result = delete(&store, "a").await.expect("the query succeeds");

    assert_eq!(result, DeleteResult::NotFound);
    assert!(events(fixture).await.is_empty());
}

async fn fails_if_trigger_suppresses_deletion(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    fixture.database.register("a").await;
    let trigger = if fixture.database.is_postgres() {
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON cloudflare_images FOR EACH ROW EXECUTE FUNCTION keep()"
    } else {
        "CREATE TRIGGER keep BEFORE DELETE ON cloudflare_images BEGIN SELECT RAISE(IGNORE); END"
    };
    fixture.database.execute_script(trigger).await;

    let deleted = delete(&store, "a").await;

    let suppressed = |error: &StoreError| {
        let table = "cloudflare_images";
        matches!(error, StoreError::RowsSuppressed { table: suppressed } if *suppressed == table)
    };
    assert!(deleted.as_ref().is_err_and(suppressed), "{deleted:?}");
    assert!(events(fixture).await.is_empty());
}

async fn names_row_with_unknown_status(fixture: &Fixture) {
    let store = fixture.open_for(&["app"]).await;
    fixture.database.register("a").await;
    let table = "cloudflare_images";
    fixture.write_unchecked(table, "status", "lost").await;
    let id = fixture.database.image("a").await["id"].clone();

    let found = store.image_catalog.find(&image_id("a")).await.map(|_| ());
    let listed = store.image_catalog.list(None, 10).await.map(|_| ());
    let deleted = delete(&store, "a").await.map(|_| ());

    let id = id.as_str().expect("text");
    let expected = format!("cloudflare_images.status of row {id} ");
    for result in [found, listed, deleted] {
        let error = result.expect_err("the status is unknown").to_string();
        assert!(error.starts_with(&expected), "{error}");
    }
}

async fn add(store: &Store, id: &str, seconds: i64) -> AddResult {
    let new = NewImage {
        cloudflare_id: image_id(id),
        filename: "cat.jpg".to_owned(),
        creator: "user-1".to_owned(),
        metadata: Json::from_canonical(r#"{"album":7}"#.to_owned()),
        expires_at: Some(at(seconds + 600)),
        require_signed_urls: true,
    };
    let adding = store.image_catalog.add(&new, at(seconds)).await;
    adding.expect("the query succeeds")
}

async fn find(store: &Store, id: &str) -> Option<Image> {
    store
        .image_catalog
        .find(&image_id(id))
        .await
        .expect("the query succeeds")
}

async fn list(store: &Store, status: Option<Status>, limit: u32) -> Vec<String> {
    let images = store
        .image_catalog
        .list(status, limit)
        .await
        .expect("the query succeeds");
    let ids = images.iter().map(|image| image.cloudflare_id.to_string());
    ids.collect()
}

async fn delete(store: &Store, id: &str) -> Result<DeleteResult, StoreError> {
    store.image_catalog.delete(&image_id(id), at(100)).await
}

/// Returns the kinds of the events, in order.
async fn events(fixture: &Fixture) -> Vec<String> {
    let events = fixture.database.events().await;
    let kinds = events.iter().map(|event| event["event"].as_str());
    kinds.map(|kind| kind.expect("text").to_owned()).collect()
}
