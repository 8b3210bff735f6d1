//! Events with deeply nested JSON: the row of an app, field filters and jq programs.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::{
    IMAGES, errors_by_image, start, upload, uploaded, wait_until_none_due,
};
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::subscriber::{RELAY_SECRET, Subscriber};

/// The error of an event over the limit.
const TOO_DEEP: &str = "the event is nested too deeply: it has more than 1024 levels";

on_both_databases!(
    deep_row_costs_only_its_own_delivery,
    filters_and_programs_read_1024_levels,
    commands_show_deep_deliveries,
    deep_event_without_filters_is_delivered,
);

/// Returns a value within objects and arrays in turns.
fn nested(levels: usize, inner: &str) -> String {
    let brackets = [(r#"{"a":"#, '}'), ("[", ']')].iter().cycle();
    let brackets: Vec<_> = brackets.take(levels).collect();
    let open = brackets.iter().map(|(open, _)| *open);
    let close = brackets.iter().rev().map(|(_, close)| *close);
    open.collect::<String>() + inner + &close.collect::<String>()
}

/// Inserts an image whose metadata has this number of levels, as an app does.
async fn insert_image(database: &Database, id: &str, levels: usize) {
    let metadata = nested(levels, "1");
    let sql = format!(
        "INSERT INTO cloudflare_images (cloudflare_id, metadata) VALUES ('{id}', '{metadata}')"
    );
    database.execute(&sql, &[]).await;
}

/// Inserts an event with this number of levels, and its delivery.
async fn insert_event(database: &Database, image: &str, levels: usize) {
    let id = format!("evt_{image}");
    let payload = format!(
        r#"{{"id":"{id}","object":{{"filename":"secret","metadata":{}}}}}"#,
        nested(levels - 2, "1")
    );
    let sql = format!(
        "INSERT INTO relay_events (id, event, model, image, payload, created_at) \
         VALUES ('{id}', 'updated', '{IMAGES}', '{image}', '{payload}', '2024-01-01T12:00:00.000000Z')"
    );
    database.execute(&sql, &[]).await;
    let sql = format!(
        "INSERT INTO relay_deliveries (event_id, endpoint, due_at, created_at) \
         VALUES ('{id}', 'app', '2024-01-01T12:00:00.000000Z', '2024-01-01T12:00:00.000000Z')"
    );
    database.execute(&sql, &[]).await;
}

async fn deep_row_costs_only_its_own_delivery(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({
            "exclude_fields": {IMAGES: ["filename"]}, "when": "true", "transform": ".",
            "retry": {"max_retries": 0},
        }),
    )
    .await;
    for levels in [126, 1000, 1001, 6400] {
        insert_image(&app.database, &format!("image-{levels}"), levels).await;
    }
    app.database.register("normal").await;

    let images = [
        "image-126",
        "image-1000",
        "image-1001",
        "image-6400",
        "normal",
    ];
    for image in images {
        let answer = app.post_webhook(uploaded(image)).await;
        assert_eq!(answer.outcome(), (200, "applied"), "{image}");
    }

    wait_until_none_due(&app.database).await;
    // SQLite's JSON functions do not read the row's metadata from 1,001 levels on. Its events have null there.
    let too_deep = if app.database.is_postgres() {
        TOO_DEEP
    } else {
        ""
    };
    assert_eq!(
        errors_by_image(&app.database).await,
        [
            "image-1000: ",
            "image-1001: ",
            "image-126: ",
            &format!("image-6400: {too_deep}"),
            "normal: ",
        ],
    );
}

async fn filters_and_programs_read_1024_levels(mut database: Database) {
    for settings in [
        json!({"exclude_fields": {IMAGES: ["filename"]}, "retry": {"max_retries": 0}}),
        json!({"when": "true", "retry": {"max_retries": 0}}),
        json!({"transform": "del(.object.filename)", "retry": {"max_retries": 0}}),
    ] {
        let subscriber = Subscriber::start().await;
        let app = start(database, &subscriber, settings.clone()).await;
        for levels in [1023, 1024, 1025, 6500] {
            insert_event(&app.database, &format!("event-{levels}"), levels).await;
        }

        wait_until_none_due(&app.database).await;

        assert_eq!(
            errors_by_image(&app.database).await,
            [
                "event-1023: ",
                "event-1024: ",
                &format!("event-1025: {TOO_DEEP}"),
                &format!("event-6500: {TOO_DEEP}"),
            ],
            "{settings}"
        );
        for message in subscriber.wait_for(2).await {
            let text = String::from_utf8(message.body.to_vec()).expect("text");
            let is_filtered = settings["when"].is_null();
            assert_eq!(text.contains("secret"), !is_filtered, "{settings}");
        }
        (_, database) = app.stop().await;
        let script =
            "DELETE FROM relay_attempts; DELETE FROM relay_deliveries; DELETE FROM relay_events;";
        database.execute_script(script).await;
    }
}

async fn deep_event_without_filters_is_delivered(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;

    insert_event(&app.database, "event", 6500).await;
    upload(&app, "image").await;

    subscriber.wait_for(2).await;
    wait_until_none_due(&app.database).await;
    assert_eq!(errors_by_image(&app.database).await, ["event: ", "image: "],);
}

async fn commands_show_deep_deliveries(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    insert_event(&app.database, "event", 6500).await;
    insert_image(&app.database, "image", 6400).await;
    wait_until_none_due(&app.database).await;

    let folder = TempDir::new().expect("a folder");
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET,
        "exclude_fields": {IMAGES: ["filename"]},
    }])
    .to_string();
    let variables = [
        ("DATABASE_URL", app.database.url.as_str()),
        ("APP__RELAY__ENDPOINTS", &endpoints),
    ];
    let id = app.database.deliveries().await[0]["id"].to_string();
    for arguments in [
        &["deliveries", "list"][..],
        &["deliveries", "list", "--json"],
        &["deliveries", "show", &id],
        &["deliveries", "show", &id, "--json"],
        &["images", "list", "--json"],
        &["images", "show", "image"],
        &["images", "show", "image", "--json"],
    ] {
        let output = run(folder.path(), arguments, &variables);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?} {}",
            stderr(&output)
        );
    }

    let event = r#"{"model":{"label":"cloudflare_images.CloudflareImage"},"object":"#;
    fs::write(
        folder.path().join("event.json"),
        format!("{event}{}}}", nested(1024, "1")),
    )
    .expect("a file");
    let arguments = ["endpoints", "preview", "app", "--event", "event.json"];
    let output = run(folder.path(), &arguments, &variables);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains(TOO_DEEP), "{}", stderr(&output));
}
