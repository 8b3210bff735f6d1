//! Whoever listens to Postgres hears which images changed, in the moment in which the change can be read.

use std::fs;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use tempfile::TempDir;

use crate::group_commit::{ONE_WRITER, PATIENT, deliver_together};
use crate::relay_delivery::{upload, uploaded};
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::wait;

const CHANNEL: &str = "images_changed";
const VARIABLE: (&str, &str) = ("APP__RELAY__NOTIFY_CHANNEL", CHANNEL);

/// What is heard, until nothing more can come: a last word goes through the same channel.
async fn heard(listener: &mut PgListener, database: &Database) -> Vec<Value> {
    let last = format!("SELECT pg_notify('{CHANNEL}', '\"end\"')");
    database.execute(&last, &[]).await;
    let mut heard = Vec::new();
    loop {
        let next = tokio::time::timeout(wait::PATIENCE, listener.recv()).await;
        let notification = next.expect("it comes").expect("the connection holds");
        let payload: Value = serde_json::from_str(notification.payload()).expect("JSON");
        if payload == "end" {
            return heard;
        }
        heard.push(payload);
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
    let variables: Vec<_> = variables.iter().copied().chain([VARIABLE]).collect();
    (App::start_with(database, &variables).await, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_an_image_is_heard_with_its_event() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;

    let heard = heard(&mut listener, &app.database).await;
    let event = app.database.events().await.remove(0);
    let id = app.database.image("image").await["id"].clone();
    assert_eq!(
        heard,
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
async fn what_changes_nothing_is_not_heard() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;
    assert_eq!(heard(&mut listener, &app.database).await.len(), 1);

    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "duplicate")
    );
    assert_eq!(
        app.deliver(uploaded("nobody's")).await.outcome(),
        (404, "unknown-image")
    );

    assert_eq!(
        heard(&mut listener, &app.database).await,
        Vec::<Value>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_heard_once_in_a_transaction_as_it_is_at_its_end() {
    let (app, mut listener) = start(&[ONE_WRITER, PATIENT]).await;
    for id in ["image", "other"] {
        app.database.register(id).await;
    }
    let bodies = vec![
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string(),
        json!({"id": "image", "error": "broken", "timestamp": "2024-01-01T11:30:00Z"}).to_string(),
        uploaded("image"),
        uploaded("other"),
    ];
    for answer in deliver_together(&app, bodies).await {
        assert_eq!(answer.status, 200);
    }

    let heard = heard(&mut listener, &app.database).await;
    let text = |one: &Value, name| one[name].as_str().expect("text").to_owned();
    let mut heard: Vec<(String, String)> = heard
        .iter()
        .map(|one| (text(one, "cloudflare_id"), text(one, "status")))
        .collect();
    heard.sort_unstable();
    let now = |id: &str| (id.to_owned(), "uploaded".to_owned());
    assert_eq!(heard, [now("held"), now("image"), now("other")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_of_what_is_not_committed() {
    let (app, mut listener) = start(&[]).await;
    app.database.register("image").await;
    let refuse_at_the_commit = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON relay_deliveries DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse();";
    app.database.execute_script(refuse_at_the_commit).await;

    assert_eq!(app.deliver(uploaded("image")).await.status, 500);

    assert_eq!(
        heard(&mut listener, &app.database).await,
        Vec::<Value>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_registered_by_hand_is_heard() {
    let database = Database::postgres().await;
    let mut listener = listen(&database).await;
    let app = App::start(database).await;
    let folder = TempDir::new().expect("a folder");

    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        VARIABLE,
    ];
    let added = run(folder.path(), &["images", "add", "image"], &variables);

    assert_eq!(added.status.code(), Some(0), "{}", stderr(&added));
    let heard = heard(&mut listener, &app.database).await;
    assert_eq!((heard.len(), &heard[0]["status"]), (1, &json!("pending")));
    assert_eq!(app.database.events().await[0]["event"], "created");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_deleted_is_heard_without_a_status() {
    let (app, mut listener) = start(&[]).await;
    app.database.register("image").await;
    let id = app.database.image("image").await["id"].clone();
    let folder = TempDir::new().expect("a folder");

    let variables = [("DATABASE_URL", app.database.url.as_str()), VARIABLE];
    let deleted = run(folder.path(), &["images", "delete", "image"], &variables);

    assert_eq!(deleted.status.code(), Some(0), "{}", stderr(&deleted));
    let event = app.database.events().await.remove(0);
    assert_eq!(event["event"], "deleted");
    assert_eq!(
        heard(&mut listener, &app.database).await,
        [json!({"id": id, "cloudflare_id": "image", "status": null, "event_id": event["id"]})]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_told_beside_the_channel_and_of_what_it_wants() {
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
    let heard = heard(&mut listener, &app.database).await;
    assert_eq!(heard.len(), 1);
    assert_ne!(heard[0]["event_id"], message.event_id());
    assert_eq!(app.database.events().await.len(), 2);
    assert_eq!(subscriber.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_is_old_some_day() {
    let (app, mut listener) = start(&[]).await;
    upload(&app, "image").await;
    assert_eq!(heard(&mut listener, &app.database).await.len(), 1);
    let folder = TempDir::new().expect("a folder");

    // The program lives today, and the webhook came long ago.
    let variables = [("DATABASE_URL", app.database.url.as_str()), VARIABLE];
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
fn a_channel_that_nobody_can_listen_to_is_refused_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let postgres = "postgres://images@db.example/images";
    for (url, channel, says) in [
        (
            "sqlite://images.db",
            CHANNEL,
            "is for Postgres, and database.url names SQLite",
        ),
        (
            postgres,
            "Images",
            "must be a name of up to 63 small letters, digits and _",
        ),
        (
            postgres,
            "9images",
            "must be a name of up to 63 small letters, digits and _",
        ),
        (
            postgres,
            "images; DROP",
            "must be a name of up to 63 small letters, digits and _",
        ),
        (
            postgres,
            &"i".repeat(64),
            "must be a name of up to 63 small letters, digits and _",
        ),
    ] {
        let settings = format!("[relay]\nnotify_channel = \"{channel}\"\n");
        fs::write(folder.path().join("my.toml"), settings).expect("a file");
        let output = run(
            folder.path(),
            &["--config", "my.toml", "check-config"],
            &[("DATABASE_URL", url), ("CLOUDFLARE_WEBHOOK_SECRET", SECRET)],
        );
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{channel}: {said}");
        assert!(
            said.contains("relay.notify_channel") && said.contains(says),
            "{said}"
        );
    }
}
