//! An image can be deleted: its row goes, what is known of its webhooks stays, and other apps are told.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::telling_other_apps::{upload, uploaded};

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

on_both_databases! {
    async fn an_image_is_deleted_and_its_trail_stays(database) {
        let app = App::start(database).await;
        let (folder, settings) = (TempDir::new().expect("a folder"), [("DATABASE_URL", app.database.url.clone())]);
        upload(&app, "image").await;
        app.database.register("other").await;
        let trail = app.database.logs().await;

        assert_eq!(images(folder.path(), &["delete", "image"], &settings), said("deleted image"));

        let left = app.database.texts("SELECT cloudflare_id FROM cloudflare_images").await;
        assert_eq!((left, app.database.logs().await), (vec!["other".to_owned()], trail));
        let again = images(folder.path(), &["delete", "image"], &settings);
        assert_eq!(again, (Some(1), "error: there is no image image, so there is nothing to delete\n".to_owned()));
    }

    async fn what_comes_for_a_deleted_image_is_kept_until_it_is_registered_again(database) {
        let app = App::start(database).await;
        let (folder, settings) = (TempDir::new().expect("a folder"), [("DATABASE_URL", app.database.url.clone())]);
        upload(&app, "image").await;
        images(folder.path(), &["delete", "image"], &settings);

        assert_eq!(app.deliver(uploaded("image")).await.outcome(), (404, "unknown-image"));
        app.database.register("image").await;
        assert_eq!(app.deliver(uploaded("image")).await.outcome(), (200, "applied"), "it is another image than the one that is gone");
    }

    async fn apps_are_told_of_a_deleted_image_as_it_was_last(database) {
        let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
        let settings = settings(&database, &subscriber, &["created", "updated", "deleted"]);
        let variables: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let service = Service::start(folder.path(), &variables);
        assert_eq!(images(folder.path(), &["add", "image", "--metadata", "{\"album\":7}"], &settings), said("registered image"));
        let request = crate::support::app::client().post(service.url()).header("cf-webhook-auth", SECRET).body(uploaded("image"));
        assert_eq!(answer(request).await.outcome(), (200, "applied"));
        let row = database.image("image").await;

        assert_eq!(images(folder.path(), &["delete", "image"], &settings), said("deleted image"));

        let told: Vec<Value> = subscriber.wait_for(3).await.iter().map(Received::json).collect();
        let events: Vec<&Value> = told.iter().map(|told| &told["event"]).collect();
        assert_eq!(events, ["created", "updated", "deleted"]);
        let last = &told[2];
        assert_eq!((&last["model"]["label"], &last["changes"], &last["user"]), (&json!(IMAGES), &Value::Null, &Value::Null));
        for (column, value) in last["object"].as_object().expect("an object") {
            assert_eq!(value, &row[column], "{column}");
        }
        assert_eq!(last["object"].as_object().map(serde_json::Map::len), told[1]["object"].as_object().map(serde_json::Map::len));
    }

    async fn only_who_wants_to_know_is_told_of_a_deletion(database) {
        let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
        let settings = settings(&database, &subscriber, &["created", "updated"]);
        images(folder.path(), &["add", "image"], &settings);

        assert_eq!(images(folder.path(), &["delete", "image"], &settings), said("deleted image"));

        assert_eq!(database.texts("SELECT event FROM relay_events").await, ["created"]);
    }

    async fn an_image_that_another_table_needs_stays_and_nobody_is_told_otherwise(database) {
        let (subscriber, folder) = (Subscriber::start().await, TempDir::new().expect("a folder"));
        let settings = settings(&database, &subscriber, &["deleted"]);
        images(folder.path(), &["add", "image"], &settings);
        database.execute("CREATE TABLE albums (image text REFERENCES cloudflare_images (cloudflare_id))", &[]).await;
        database.execute("INSERT INTO albums VALUES ('image')", &[]).await;

        let (code, said) = images(folder.path(), &["delete", "image"], &settings);

        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("failed at deleting an image: ") && said.to_lowercase().contains("foreign key"), "{said}");
        assert_eq!(database.image("image").await["status"], "pending");
        assert_eq!(database.count("SELECT count(*) FROM relay_events").await, 0);
    }

    async fn a_webhook_that_comes_meanwhile_is_applied_before_it_or_kept(database) {
        let app = App::start(database).await;
        let (folder, settings) = (TempDir::new().expect("a folder"), [("DATABASE_URL", app.database.url.clone())]);
        app.database.register("image").await;
        let lock = app.database.hold_image("image").await;

        let deletion = tokio::task::spawn_blocking(move || images(folder.path(), &["delete", "image"], &settings));
        let request = app.unsigned(uploaded("image")).header("cf-webhook-auth", SECRET);
        let webhook = tokio::spawn(answer(request));
        if app.database.is_postgres() {
            app.database.wait_until_somebody_waits_for_a_lock().await;
        }
        lock.release().await;

        assert_eq!(deletion.await.expect("it ends"), said("deleted image"));
        let rows = (app.database.logs().await.len(), app.database.rejections().await.len());
        match webhook.await.expect("it ends").outcome() {
            (200, "applied") => assert_eq!(rows, (1, 0)),
            (404, "unknown-image") => assert_eq!(rows, (0, 1)),
            other => panic!("{other:?}"),
        }
        assert_eq!(app.database.count("SELECT count(*) FROM cloudflare_images").await, 0);
    }
}
