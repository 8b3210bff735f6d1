//! An image can be deleted: its row goes, what is known of its webhooks stays, and other apps are told.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::group_commit::PATIENT;
use crate::on_both_databases;
use crate::relay_delivery::{upload, uploaded};
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

/// Settings with one endpoint, which wants these events of images.
fn settings(
    database: &Database,
    subscriber: &Subscriber,
    events: &[&str],
) -> Vec<(&'static str, String)> {
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "events": events, "ordered": true,
    }]);
    vec![
        ("DATABASE_URL", database.url.clone()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET.to_owned()),
        ("APP__RELAY__ENDPOINTS", endpoints.to_string()),
    ]
}

/// Runs `images` with these words, and returns the exit code and what was printed.
fn images(folder: &Path, words: &[&str], settings: &[(&str, String)]) -> (Option<i32>, String) {
    let variables: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let output = run(folder, &[&["images"], words].concat(), &variables);
    (output.status.code(), stdout(&output) + &stderr(&output))
}

fn said(words: &str) -> (Option<i32>, String) {
    (Some(0), format!("{words}\n"))
}

on_both_databases!(
    an_image_is_deleted_and_its_trail_stays,
    what_comes_for_a_deleted_image_is_kept_until_it_is_registered_again,
    apps_are_told_of_a_deleted_image_as_it_was_last,
    only_who_wants_to_know_is_told_of_a_deletion,
    an_image_that_another_table_needs_stays_and_nobody_is_told_otherwise,
    an_image_that_a_trigger_keeps_is_not_called_deleted,
    a_webhook_that_comes_meanwhile_is_applied_before_it_or_kept,
    where_the_service_inserts_images_a_webhook_that_comes_meanwhile_is_applied_before_it_or_to_a_new_one,
);

async fn an_image_is_deleted_and_its_trail_stays(database: Database) {
    let app = App::start(database).await;
    let (folder, settings) = (
        TempDir::new().expect("a folder"),
        [("DATABASE_URL", app.database.url.clone())],
    );
    upload(&app, "image").await;
    app.database.register("other").await;
    let trail = app.database.logs().await;

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        said("deleted image")
    );

    let left = app
        .database
        .texts("SELECT cloudflare_id FROM cloudflare_images")
        .await;
    assert_eq!(
        (left, app.database.logs().await),
        (vec!["other".to_owned()], trail)
    );
    let again = images(folder.path(), &["delete", "image"], &settings);
    assert_eq!(
        again,
        (
            Some(1),
            "error: there is no image image, so there is nothing to delete\n".to_owned()
        )
    );
}

async fn what_comes_for_a_deleted_image_is_kept_until_it_is_registered_again(database: Database) {
    let app = App::start(database).await;
    let (folder, settings) = (
        TempDir::new().expect("a folder"),
        [("DATABASE_URL", app.database.url.clone())],
    );
    upload(&app, "image").await;
    images(folder.path(), &["delete", "image"], &settings);

    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (404, "unknown-image")
    );
    app.database.register("image").await;
    let later = json!({"id": "image", "error": "too large", "timestamp": "2024-01-01T12:00:01Z"})
        .to_string();
    assert_eq!(
        app.deliver(later).await.outcome(),
        (200, "applied"),
        "it is another image than the one that is gone"
    );
    wait::until_async("what was kept is applied too", async || {
        app.database.rejections().await[0]["state"] == "applied"
    })
    .await;
    assert_eq!(app.database.image("image").await["status"], "failed");
}

async fn apps_are_told_of_a_deleted_image_as_it_was_last(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    let settings = settings(&database, &subscriber, &["created", "updated", "deleted"]);
    let variables: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let service = Service::start(folder.path(), &variables);
    assert_eq!(
        images(
            folder.path(),
            &["add", "image", "--metadata", "{\"album\":7}"],
            &settings
        ),
        said("registered image")
    );
    let request = crate::support::app::client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(uploaded("image"));
    assert_eq!(answer(request).await.outcome(), (200, "applied"));
    let row = database.image("image").await;

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        said("deleted image")
    );

    let told: Vec<Value> = subscriber
        .wait_for(3)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let events: Vec<&Value> = told.iter().map(|told| &told["event"]).collect();
    assert_eq!(events, ["created", "updated", "deleted"]);
    let last = &told[2];
    assert_eq!(
        (&last["model"]["label"], &last["changes"], &last["user"]),
        (&json!(IMAGES), &Value::Null, &Value::Null)
    );
    for (column, value) in last["object"].as_object().expect("an object") {
        assert_eq!(value, &row[column], "{column}");
    }
    assert_eq!(
        last["object"].as_object().map(serde_json::Map::len),
        told[1]["object"].as_object().map(serde_json::Map::len)
    );
}

async fn only_who_wants_to_know_is_told_of_a_deletion(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    let settings = settings(&database, &subscriber, &["created", "updated"]);
    images(folder.path(), &["add", "image"], &settings);

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        said("deleted image")
    );

    assert_eq!(
        database.texts("SELECT event FROM relay_events").await,
        ["created"]
    );
}

async fn an_image_that_another_table_needs_stays_and_nobody_is_told_otherwise(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    let settings = settings(&database, &subscriber, &["deleted"]);
    images(folder.path(), &["add", "image"], &settings);
    // As Django has its keys: looked at when the transaction ends.
    let key =
        "image text REFERENCES cloudflare_images (cloudflare_id) DEFERRABLE INITIALLY DEFERRED";
    database
        .execute(&format!("CREATE TABLE albums ({key})"), &[])
        .await;
    database
        .execute("INSERT INTO albums VALUES ('image')", &[])
        .await;

    let (code, said) = images(folder.path(), &["delete", "image"], &settings);

    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("failed at deleting an image: ")
            && said.to_lowercase().contains("foreign key"),
        "{said}"
    );
    assert_eq!(database.image("image").await["status"], "pending");
    assert_eq!(database.count("SELECT count(*) FROM relay_events").await, 0);
}

async fn an_image_that_a_trigger_keeps_is_not_called_deleted(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    for wanted in [&["deleted"][..], &["created"]] {
        let settings = settings(&database, &subscriber, wanted);
        images(folder.path(), &["add", "image"], &settings);
        let before = database.count("SELECT count(*) FROM relay_events").await;
        if wanted == ["deleted"] {
            database
                .execute_script(if database.is_postgres() {
                    "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                         $$ BEGIN RETURN NULL; END $$;
                     CREATE TRIGGER keep BEFORE DELETE ON cloudflare_images
                         FOR EACH ROW EXECUTE FUNCTION keep();"
                } else {
                    "CREATE TRIGGER keep BEFORE DELETE ON cloudflare_images
                         BEGIN SELECT RAISE(IGNORE); END;"
                })
                .await;
        }

        let (code, said) = images(folder.path(), &["delete", "image"], &settings);

        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("did not take every row of cloudflare_images"),
            "{said}"
        );
        assert_eq!(database.image("image").await["status"], "pending");
        assert_eq!(
            database.count("SELECT count(*) FROM relay_events").await,
            before
        );
    }
}

async fn a_webhook_that_comes_meanwhile_is_applied_before_it_or_kept(database: Database) {
    let (answers, left) = race(database, "reject", Order::Any).await;

    assert!(
        matches!(
            answers,
            (200, "applied", 1, 0) | (404, "unknown-image", 0, 1)
        ),
        "{answers:?}"
    );
    assert_eq!(left, Vec::<String>::new());
}

async fn where_the_service_inserts_images_a_webhook_that_comes_meanwhile_is_applied_before_it_or_to_a_new_one(
    database: Database,
) {
    let (answers, left) = race(database, "create", Order::Any).await;

    assert_eq!(answers, (200, "applied", 1, 0));
    assert!(left.is_empty() || left == ["uploaded"], "{left:?}");
}

/// Who waits first for a row that somebody holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    DeletionFirst,
    WebhookFirst,
    Any,
}

/// Deletes an image, and has Cloudflare tell that it is there, while its row is held by somebody, who then lets go. The answer to the
/// webhook, how many entries of the trail and rejections there are then, and the images' states.
async fn race(
    database: Database,
    unknown_images: &str,
    order: Order,
) -> ((u16, &'static str, usize, usize), Vec<String>) {
    let variables = [("APP__WEBHOOK__UNKNOWN_IMAGES", unknown_images), PATIENT];
    let app = App::start_with(database, &variables).await;
    let folder = TempDir::new().expect("a folder");
    let settings = [
        ("DATABASE_URL", app.database.url.clone()),
        (PATIENT.0, PATIENT.1.to_owned()),
    ];
    app.database.register("image").await;
    let lock = app.database.lock_image("image").await;
    let waiting = async |count: i64| {
        if order != Order::Any {
            wait::until_async("so many wait", async || {
                app.database.lock_waiters().await == count
            })
            .await;
        }
    };
    let mut deleting = JoinSet::new();
    let mut delete = || {
        let (folder, settings) = (folder.path().to_owned(), settings.clone());
        deleting.spawn_blocking(move || images(&folder, &["delete", "image"], &settings));
    };

    if order == Order::DeletionFirst {
        delete();
        waiting(1).await;
    }
    let request = app
        .request(uploaded("image"))
        .header("cf-webhook-auth", SECRET);
    let webhook = tokio::spawn(answer(request));
    waiting(if order == Order::DeletionFirst { 2 } else { 1 }).await;
    if order != Order::DeletionFirst {
        delete();
        waiting(2).await;
    }
    lock.release().await;

    assert_eq!(deleting.join_all().await, [said("deleted image")]);
    let answer = webhook.await.expect("it ends");
    let outcome = match answer.outcome() {
        (200, "applied") => (200, "applied"),
        (404, "unknown-image") => (404, "unknown-image"),
        other => panic!("{other:?}"),
    };
    let (logs, rejections) = (
        app.database.logs().await.len(),
        app.database.rejections().await.len(),
    );
    let left = app
        .database
        .texts("SELECT status FROM cloudflare_images")
        .await;
    ((outcome.0, outcome.1, logs, rejections), left)
}

/// Who waits for locks can be seen on Postgres alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_waited_for_a_deletion_is_kept_and_one_that_was_before_it_is_applied() {
    let none = Vec::<String>::new();
    let after = race(Database::postgres().await, "reject", Order::DeletionFirst).await;
    assert_eq!(after, ((404, "unknown-image", 0, 1), none.clone()));
    let before = race(Database::postgres().await, "reject", Order::WebhookFirst).await;
    assert_eq!(before, ((200, "applied", 1, 0), none));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_service_inserts_images_one_that_waited_for_a_deletion_is_about_a_new_image() {
    let after = race(Database::postgres().await, "create", Order::DeletionFirst).await;
    assert_eq!(after, ((200, "applied", 1, 0), vec!["uploaded".to_owned()]));
    let before = race(Database::postgres().await, "create", Order::WebhookFirst).await;
    assert_eq!(before, ((200, "applied", 1, 0), Vec::new()));
}
