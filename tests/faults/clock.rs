//! A clock that is set back. The service runs in this process and uses the test's clock.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::wait;

const DAY: Duration = Duration::from_hours(24);

fn body(id: &str, fields: &Value) -> String {
    let mut body = fields.clone();
    body["id"] = id.into();
    body.to_string()
}

on_both_databases!(loses_nothing_when_clock_moves_back,);

async fn loses_nothing_when_clock_moves_back(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let uploaded = json!({"uploaded": "2024-01-01T11:59:00Z"});
    let undated_failure = json!({"error": "too big"});
    assert_eq!(
        app.post_webhook(body("image", &uploaded)).await.outcome(),
        (200, "applied")
    );
    assert_eq!(
        app.post_webhook(body("early", &uploaded)).await.outcome(),
        (404, "unknown-image")
    );

    app.clock.set_back(DAY);

    assert_eq!(
        app.post_webhook(body("image", &uploaded)).await.outcome(),
        (200, "duplicate")
    );
    assert_eq!(
        app.post_webhook(body("image", &undated_failure))
            .await
            .outcome(),
        (200, "stale"),
        "its time is its receipt, a day before the upload"
    );
    assert_eq!(app.database.image("image").await["status"], "uploaded");
    assert_eq!(
        app.post_webhook(body("later", &uploaded)).await.outcome(),
        (404, "unknown-image")
    );
    app.database.register("early").await;
    app.database.register("later").await;
    wait::until_async(
        "the notifications parked before and after the change are applied",
        async || {
            app.database.image("early").await["status"] == "uploaded"
                && app.database.image("later").await["status"] == "uploaded"
        },
    )
    .await;

    app.clock.advance(DAY);
    assert_eq!(
        app.post_webhook(body(
            "image",
            &json!({"error": "too big", "timestamp": "2024-01-01T12:00:00Z"})
        ))
        .await
        .outcome(),
        (200, "applied")
    );
    let mut types = app.database.log_types().await;
    types.sort();
    assert_eq!(
        types,
        [
            "webhook_duplicate",
            "webhook_received",
            "webhook_received",
            "webhook_received",
            "webhook_received",
            "webhook_stale"
        ]
    );
}
