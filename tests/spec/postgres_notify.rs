//! Postgres NOTIFY: listeners receive each changed image when the change commits.

use std::fs;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use tempfile::TempDir;

use crate::group_commit::{LONG_TIMEOUT, ONE_WRITER, post_together};
use crate::relay_delivery::{upload, uploaded};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::wait;

const CHANNEL: &str = "images_changed";
const CHANNEL_SETTING: (&str, &str) = ("APP__RELAY__NOTIFY_CHANNEL", CHANNEL);

/// Returns the payloads so far. A final message through the same channel marks the end.
async fn payloads(listener: &mut PgListener, database: &Database) -> Vec<Value> {
    let last = format!("SELECT pg_notify('{CHANNEL}', '\"end\"')");
    database.execute(&last, &[]).await;
    let mut payloads = Vec::new();
    loop {
        let next = tokio::time::timeout(wait::WAIT_TIMEOUT, listener.recv()).await;
        let notification = next
            .expect("a payload arrives")
            .expect("the connection holds");
        let payload: Value = serde_json::from_str(notification.payload()).expect("JSON");
        if payload == "end" {
            return payloads;
        }
        payloads.push(payload);
    }
}

async fn listen(database: &Database) -> PgListener {
    let mut listener = PgListener::connect(&database.url)
        .await
        .expect("it connects");
    listener.listen(CHANNEL).await.expect("it listens");
    listener
}

async fn start(variables: &[(&str, &str)]) -> (App, PgListener) {
    let database = Database::postgres().await;
    let listener = listen(&database).await;
    let variables: Vec<_> = variables.iter().copied().chain([CHANNEL_SETTING]).collect();
    (App::start_with(database, &variables).await, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn notifies_each_change_with_event() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;

    let payloads = payloads(&mut listener, &app.database).await;
    let event = app.database.events().await.remove(0);
    let id = app.database.image("image").await["id"].clone();
    assert_eq!(
        payloads,
        [
            json!({"id": id, "cloudflare_id": "image", "status": "uploaded", "event_id": event["id"]})
        ]
    );
    let payload: Value =
        serde_json::from_str(event["payload"].as_str().expect("text")).expect("JSON");
    assert_eq!(
        payload["changes"]["status"],
        json!({"old": "pending", "new": "uploaded"})
    );
    let delivery = app.database.deliveries().await.remove(0);
    for (column, value) in [
        ("endpoint", json!("notify")),
        ("status", json!("delivered")),
        ("due_at", Value::Null),
        ("attempts", json!(0)),
    ] {
        assert_eq!(delivery[column], value, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_unchanged_images() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;
    assert_eq!(payloads(&mut listener, &app.database).await.len(), 1);

    assert_eq!(
        app.post_webhook(uploaded("image")).await.outcome(),
        (200, "duplicate")
    );
    assert_eq!(
        app.post_webhook(uploaded("nobody's")).await.outcome(),
        (404, "unknown-image")
    );

    assert_eq!(
        payloads(&mut listener, &app.database).await,
        Vec::<Value>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notifies_final_status_per_transaction() {
    let (app, mut listener) = start(&[ONE_WRITER, LONG_TIMEOUT]).await;
    for id in ["image", "other"] {
        app.database.register(id).await;
    }
    let bodies = vec![
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string(),
        json!({"id": "image", "error": "broken", "timestamp": "2024-01-01T11:30:00Z"}).to_string(),
        uploaded("image"),
        uploaded("other"),
    ];
    for answer in post_together(&app, bodies).await {
        assert_eq!(answer.status, 200);
    }

    let payloads = payloads(&mut listener, &app.database).await;
    let text = |one: &Value, name| one[name].as_str().expect("text").to_owned();
    let mut payloads: Vec<(String, String)> = payloads
        .iter()
        .map(|one| (text(one, "cloudflare_id"), text(one, "status")))
        .collect();
    payloads.sort_unstable();
    let uploaded_image = |id: &str| (id.to_owned(), "uploaded".to_owned());
    assert_eq!(
        payloads,
        [
            uploaded_image("held"),
            uploaded_image("image"),
            uploaded_image("other")
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn skips_rolled_back_changes() {
    let (app, mut listener) = start(&[]).await;
    app.database.register("image").await;
    let fail_on_commit = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON relay_deliveries DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();";
    app.database.execute_script(fail_on_commit).await;

    assert_eq!(app.post_webhook(uploaded("image")).await.status, 500);

    assert_eq!(
        payloads(&mut listener, &app.database).await,
        Vec::<Value>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notifies_after_images_add() {
    let database = Database::postgres().await;
    let mut listener = listen(&database).await;
    let app = App::start(database).await;
    let folder = TempDir::new().expect("a folder");

    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        CHANNEL_SETTING,
    ];
    let added = run(folder.path(), &["images", "add", "image"], &variables);

    assert_eq!(added.status.code(), Some(0), "{}", stderr(&added));
    let payloads = payloads(&mut listener, &app.database).await;
    assert_eq!(
        (payloads.len(), &payloads[0]["status"]),
        (1, &json!("pending"))
    );
    assert_eq!(app.database.events().await[0]["event"], "created");
}

#[tokio::test(flavor = "multi_thread")]
async fn notifies_deletion_without_status() {
    let (app, mut listener) = start(&[]).await;
    app.database.register("image").await;
    let id = app.database.image("image").await["id"].clone();
    let folder = TempDir::new().expect("a folder");

    let variables = [("DATABASE_URL", app.database.url.as_str()), CHANNEL_SETTING];
    let deleted = run(folder.path(), &["images", "delete", "image"], &variables);

    assert_eq!(deleted.status.code(), Some(0), "{}", stderr(&deleted));
    let event = app.database.events().await.remove(0);
    assert_eq!(event["event"], "deleted");
    assert_eq!(
        payloads(&mut listener, &app.database).await,
        [json!({"id": id, "cloudflare_id": "image", "status": null, "event_id": event["id"]})]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notifies_and_delivers_independently() {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET,
        "include_models": ["cloudflare_images.ImageUploadLog"],
    }])
    .to_string();
    let (app, mut listener) = start(&[("APP__RELAY__ENDPOINTS", &endpoints)]).await;
    upload(&app, "image").await;

    let message = subscriber.wait_for(1).await.remove(0);
    assert_eq!(message.json()["model"]["name"], "ImageUploadLog");
    let payloads = payloads(&mut listener, &app.database).await;
    assert_eq!(payloads.len(), 1);
    assert_ne!(payloads[0]["event_id"], message.event_id());
    assert_eq!(app.database.events().await.len(), 2);
    assert_eq!(subscriber.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn prunes_old_notify_events() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;
    assert_eq!(payloads(&mut listener, &app.database).await.len(), 1);
    let folder = TempDir::new().expect("a folder");

    // The command uses the real clock, and the webhook is from 2024.
    let variables = [("DATABASE_URL", app.database.url.as_str()), CHANNEL_SETTING];
    let pruned = run(folder.path(), &["retention", "prune"], &variables);

    assert_eq!(pruned.status.code(), Some(0), "{}", stderr(&pruned));
    assert!(
        stdout(&pruned).contains("relay_deliveries: 1 rows were deleted"),
        "{}",
        stdout(&pruned)
    );
    assert_eq!(app.database.events().await.len(), 0);
}

#[test]
fn rejects_invalid_channels() {
    let folder = TempDir::new().expect("a folder");
    let postgres = "postgres://images@db.example/images";
    for (url, channel, expected) in [
        (
            "sqlite://images.db",
            CHANNEL,
            "needs Postgres, and database.url is SQLite",
        ),
        (
            postgres,
            "Images",
            "must be a name of up to 63 lowercase letters, digits and _",
        ),
        (
            postgres,
            "9images",
            "must be a name of up to 63 lowercase letters, digits and _",
        ),
        (
            postgres,
            "images; DROP",
            "must be a name of up to 63 lowercase letters, digits and _",
        ),
        (
            postgres,
            &"i".repeat(64),
            "must be a name of up to 63 lowercase letters, digits and _",
        ),
    ] {
        let settings = format!("[relay]\nnotify_channel = \"{channel}\"\n");
        fs::write(folder.path().join("my.toml"), settings).expect("a file");
        let output = run(
            folder.path(),
            &["--config", "my.toml", "check-config"],
            &[("DATABASE_URL", url), ("CLOUDFLARE_WEBHOOK_SECRET", SECRET)],
        );
        let printed = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{channel}: {printed}");
        assert!(
            printed.contains("relay.notify_channel") && printed.contains(expected),
            "{printed}"
        );
    }
}
