//! Deletion of images: the row is deleted, the audit log remains, and the deletion is published.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::group_commit::LONG_TIMEOUT;
use crate::on_both_databases;
use crate::relay_delivery::{upload, uploaded};
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

/// Returns settings with one endpoint that wants these events.
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

/// Runs `images` with these arguments. Returns the exit code and the output.
fn images(folder: &Path, arguments: &[&str], settings: &[(&str, String)]) -> (Option<i32>, String) {
    let variables: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let output = run(folder, &[&["images"], arguments].concat(), &variables);
    (output.status.code(), stdout(&output) + &stderr(&output))
}

fn success(line: &str) -> (Option<i32>, String) {
    (Some(0), format!("{line}\n"))
}

on_both_databases!(
    deletes_row_but_not_audit_log,
    parks_notification_for_deleted_image,
    publishes_deletion_with_last_state,
    publishes_deletion_only_if_subscribed,
    foreign_key_prevents_deletion,
    trigger_prevents_deletion,
    concurrent_webhook_is_applied_or_parked,
    concurrent_webhook_may_recreate_image,
);

async fn deletes_row_but_not_audit_log(database: Database) {
    let app = App::start(database).await;
    let (folder, settings) = (
        TempDir::new().expect("a folder"),
        [("DATABASE_URL", app.database.url.clone())],
    );
    upload(&app, "image").await;
    app.database.register("other").await;
    let logs_before = app.database.logs().await;

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        success("deleted image")
    );

    let remaining = app
        .database
        .texts("SELECT cloudflare_id FROM cloudflare_images")
        .await;
    assert_eq!(
        (remaining, app.database.logs().await),
        (vec!["other".to_owned()], logs_before)
    );
    let again = images(folder.path(), &["delete", "image"], &settings);
    assert_eq!(
        again,
        (
            Some(1),
            "error: there is no image image. Nothing was deleted.\n".to_owned()
        )
    );
}

async fn parks_notification_for_deleted_image(database: Database) {
    let app = App::start(database).await;
    let (folder, settings) = (
        TempDir::new().expect("a folder"),
        [("DATABASE_URL", app.database.url.clone())],
    );
    upload(&app, "image").await;
    images(folder.path(), &["delete", "image"], &settings);

    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (404, "unknown-image")
    );
    app.database.register("image").await;
    let later = json!({"id": "image", "error": "too large", "timestamp": "2024-01-01T12:00:01Z"})
        .to_string();
    assert_eq!(
        app.post_webhook(later).await.outcome(),
        (200, "applied"),
        "the notification applies to the new image"
    );
    wait::until_async("the parked notification is applied", async || {
        app.database.rejections().await[0]["state"] == "applied"
    })
    .await;
    assert_eq!(app.database.image("image").await["status"], "failed");
}

async fn publishes_deletion_with_last_state(database: Database) {
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
        success("registered image")
    );
    let request = crate::support::app::client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(uploaded("image"));
    assert_eq!(response_to(request).await.outcome(), (200, "applied"));
    let row = database.image("image").await;

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        success("deleted image")
    );

    let payloads: Vec<Value> = subscriber
        .wait_for(3)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let events: Vec<&Value> = payloads.iter().map(|payload| &payload["event"]).collect();
    assert_eq!(events, ["created", "updated", "deleted"]);
    let last = &payloads[2];
    assert_eq!(
        (&last["model"]["label"], &last["changes"], &last["user"]),
        (&json!(IMAGES), &Value::Null, &Value::Null)
    );
    for (column, value) in last["object"].as_object().expect("an object") {
        assert_eq!(value, &row[column], "{column}");
    }
    assert_eq!(
        last["object"].as_object().map(serde_json::Map::len),
        payloads[1]["object"].as_object().map(serde_json::Map::len)
    );
}

async fn publishes_deletion_only_if_subscribed(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    let settings = settings(&database, &subscriber, &["created", "updated"]);
    images(folder.path(), &["add", "image"], &settings);

    assert_eq!(
        images(folder.path(), &["delete", "image"], &settings),
        success("deleted image")
    );

    assert_eq!(
        database.texts("SELECT event FROM relay_events").await,
        ["created"]
    );
}

async fn foreign_key_prevents_deletion(database: Database) {
    let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
    let settings = settings(&database, &subscriber, &["deleted"]);
    images(folder.path(), &["add", "image"], &settings);
    // Like Django's foreign keys, it is checked at the end of the transaction.
    let key =
        "image text REFERENCES cloudflare_images (cloudflare_id) DEFERRABLE INITIALLY DEFERRED";
    database
        .execute(&format!("CREATE TABLE albums ({key})"), &[])
        .await;
    database
        .execute("INSERT INTO albums VALUES ('image')", &[])
        .await;

    let (code, printed) = images(folder.path(), &["delete", "image"], &settings);

    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains(": deleting an image failed: ")
            && printed.to_lowercase().contains("foreign key"),
        "{printed}"
    );
    assert_eq!(database.image("image").await["status"], "pending");
    assert_eq!(database.count("SELECT count(*) FROM relay_events").await, 0);
}

async fn trigger_prevents_deletion(database: Database) {
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

        let (code, printed) = images(folder.path(), &["delete", "image"], &settings);

        assert_eq!(code, Some(1), "{printed}");
        assert!(
            printed.contains("wrote fewer rows of cloudflare_images than it was given"),
            "{printed}"
        );
        assert_eq!(database.image("image").await["status"], "pending");
        assert_eq!(
            database.count("SELECT count(*) FROM relay_events").await,
            before
        );
    }
}

async fn concurrent_webhook_is_applied_or_parked(database: Database) {
    let (answers, remaining) = race(database, "reject", FirstWaiter::Any).await;

    assert!(
        matches!(
            answers,
            (200, "applied", 1, 0) | (404, "unknown-image", 0, 1)
        ),
        "{answers:?}"
    );
    assert_eq!(remaining, Vec::<String>::new());
}

async fn concurrent_webhook_may_recreate_image(database: Database) {
    let (answers, remaining) = race(database, "create", FirstWaiter::Any).await;

    assert_eq!(answers, (200, "applied", 1, 0));
    assert!(
        remaining.is_empty() || remaining == ["uploaded"],
        "{remaining:?}"
    );
}

/// The operation that waits first for the locked row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstWaiter {
    DeletionFirst,
    WebhookFirst,
    Any,
}

/// Deletes an image and delivers a webhook for it while its row is locked. Returns the webhook's
/// status and outcome, the number of audit log entries and rejections, and the statuses of the
/// images.
async fn race(
    database: Database,
    unknown_images: &str,
    order: FirstWaiter,
) -> ((u16, &'static str, usize, usize), Vec<String>) {
    let variables = [
        ("APP__WEBHOOK__UNKNOWN_IMAGES", unknown_images),
        LONG_TIMEOUT,
    ];
    let app = App::start_with(database, &variables).await;
    let folder = TempDir::new().expect("a folder");
    let settings = [
        ("DATABASE_URL", app.database.url.clone()),
        (LONG_TIMEOUT.0, LONG_TIMEOUT.1.to_owned()),
    ];
    app.database.register("image").await;
    let lock = app.database.lock_image("image").await;
    let wait_for_lock_waiters = async |count: i64| {
        if order != FirstWaiter::Any {
            wait::until_async(
                "the expected number of statements waits for a lock",
                async || app.database.lock_waiters().await == count,
            )
            .await;
        }
    };
    let mut deleting = JoinSet::new();
    let mut delete = || {
        let (folder, settings) = (folder.path().to_owned(), settings.clone());
        deleting.spawn_blocking(move || images(&folder, &["delete", "image"], &settings));
    };

    if order == FirstWaiter::DeletionFirst {
        delete();
        wait_for_lock_waiters(1).await;
    }
    let request = app
        .request(uploaded("image"))
        .header("cf-webhook-auth", SECRET);
    let webhook = tokio::spawn(response_to(request));
    wait_for_lock_waiters(if order == FirstWaiter::DeletionFirst {
        2
    } else {
        1
    })
    .await;
    if order != FirstWaiter::DeletionFirst {
        delete();
        wait_for_lock_waiters(2).await;
    }
    lock.release().await;

    assert_eq!(deleting.join_all().await, [success("deleted image")]);
    let answer = webhook.await.expect("the request ends");
    let outcome = match answer.outcome() {
        (200, "applied") => (200, "applied"),
        (404, "unknown-image") => (404, "unknown-image"),
        other => panic!("{other:?}"),
    };
    let (logs, rejections) = (
        app.database.logs().await.len(),
        app.database.rejections().await.len(),
    );
    let remaining = app
        .database
        .texts("SELECT status FROM cloudflare_images")
        .await;
    ((outcome.0, outcome.1, logs, rejections), remaining)
}

/// Only Postgres shows its lock waiters.
#[tokio::test(flavor = "multi_thread")]
async fn first_lock_waiter_decides_parked_or_applied() {
    let none = Vec::<String>::new();
    let after = race(
        Database::postgres().await,
        "reject",
        FirstWaiter::DeletionFirst,
    )
    .await;
    assert_eq!(after, ((404, "unknown-image", 0, 1), none.clone()));
    let before = race(
        Database::postgres().await,
        "reject",
        FirstWaiter::WebhookFirst,
    )
    .await;
    assert_eq!(before, ((200, "applied", 1, 0), none));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_after_deletion_creates_new_image() {
    let after = race(
        Database::postgres().await,
        "create",
        FirstWaiter::DeletionFirst,
    )
    .await;
    assert_eq!(after, ((200, "applied", 1, 0), vec!["uploaded".to_owned()]));
    let before = race(
        Database::postgres().await,
        "create",
        FirstWaiter::WebhookFirst,
    )
    .await;
    assert_eq!(before, ((200, "applied", 1, 0), Vec::new()));
}
