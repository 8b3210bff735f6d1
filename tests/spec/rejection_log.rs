//! The rejection log: authenticated requests that were refused are stored with the reason.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::signing::{SECRET, hex_hmac};
use crate::support::wait;

/// The number of bytes of a body that are stored.
const STORED_BYTES: usize = 64 * 1024;

fn hexadecimal(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

on_both_databases!(
    stores_invalid_body_unchanged,
    stores_rejections_outside_audit_log,
    truncates_long_bodies,
    counts_unauthenticated_by_minute_and_network,
    writes_counts_of_partial_minute_on_shutdown,
    stores_no_unauthenticated_body,
);

async fn stores_invalid_body_unchanged(database: Database) {
    let app = App::start(database).await;
    let body = "{\"id\": 7, \u{e9} }";
    let request = app
        .request(body)
        .header("x-signature", hex_hmac(SECRET, body.as_bytes()))
        .header("x-request-id", "a-request");

    let refused = response_to(request).await;

    assert_eq!(refused.outcome(), (400, "invalid-payload"));
    let rejections = app.database.rejections().await;
    assert_eq!(rejections.len(), 1);
    let row = &rejections[0];
    assert_eq!(
        (&row["status"], &row["reason"]),
        (&json!(400), &json!("invalid-payload")),
        "the row has the status and reason of the response"
    );
    assert_eq!(row["problem"], refused.body["detail"]);
    assert_eq!(
        (&row["scheme"], &row["client_address"], &row["request_id"]),
        (&json!("hmac"), &json!("127.0.0.1"), &json!("a-request"))
    );
    assert_eq!(
        (&row["body"], &row["body_bytes"]),
        (&json!(hexadecimal(body.as_bytes())), &json!(body.len()))
    );
    assert_eq!(
        (&row["state"], &row["cloudflare_id"], &row["count"]),
        (&json!("stored"), &json!(null), &json!(1))
    );
    assert_eq!(row["received_at"], "2024-01-01T12:00:00.000000Z");
}

async fn stores_rejections_outside_audit_log(database: Database) {
    let app = App::start(database).await;

    for body in ["", "{", "[]", r#"{"id":""}"#, "{"] {
        assert_eq!(
            app.post_webhook(body).await.outcome(),
            (400, "invalid-payload"),
            "{body}"
        );
    }

    assert_eq!(app.database.rejections().await.len(), 5);
    assert_eq!(app.database.logs().await, Vec::<Value>::new());
}

async fn truncates_long_bodies(database: Database) {
    let app = App::start(database).await;
    let body = "x".repeat(3 * STORED_BYTES);

    assert_eq!(
        app.post_webhook(body.clone()).await.outcome(),
        (400, "invalid-payload")
    );

    let rejections = app.database.rejections().await;
    assert_eq!(
        rejections[0]["body"],
        hexadecimal(&body.as_bytes()[..STORED_BYTES])
    );
    assert_eq!(rejections[0]["body_bytes"], 3 * STORED_BYTES);
}

async fn counts_unauthenticated_by_minute_and_network(database: Database) {
    let app = App::start(database).await;
    for _ in 0..3 {
        response_to(app.request("{").header("x-signature", "00")).await;
    }
    response_to(app.request("{")).await;
    assert_eq!(
        app.database.rejections().await,
        Vec::<Value>::new(),
        "nothing is stored during the requests"
    );

    app.clock.advance(Duration::from_mins(1));
    wait::until_async("the count of the minute is stored", async || {
        app.database.rejections().await.len() == 2
    })
    .await;

    let rows = app.database.rejections().await;
    let with_scheme = |scheme: &str| {
        rows.iter()
            .find(|row| row["scheme"] == scheme)
            .expect("a row")
            .clone()
    };
    assert_eq!(
        (&with_scheme("hmac")["count"], &with_scheme("")["count"]),
        (&json!(3), &json!(1))
    );
    for row in &rows {
        assert_eq!(
            (&row["status"], &row["reason"], &row["state"]),
            (&json!(401), &json!("unauthorized"), &json!("counted"))
        );
        assert_eq!(
            (&row["client_address"], &row["received_at"]),
            (
                &json!("127.0.0.0/24"),
                &json!("2024-01-01T12:00:00.000000Z")
            )
        );
        assert_eq!(
            (&row["body"], &row["request_id"]),
            (&json!(null), &json!(""))
        );
    }
}

async fn writes_counts_of_partial_minute_on_shutdown(database: Database) {
    let app = App::start(database).await;
    response_to(app.request("{")).await;
    let (_, database) = app.stop().await;
    // The clock is still in the same minute.
    let app = App::start(database).await;
    response_to(app.request("{")).await;
    let (_, database) = app.stop().await;

    let rows = database.rejections().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["count"], 2);
}

async fn stores_no_unauthenticated_body(database: Database) {
    let app = App::start(database).await;

    for body in ["{", r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#] {
        let refused = response_to(app.request(body).header("cf-webhook-auth", "a guess")).await;
        assert_eq!(refused.outcome(), (401, "unauthorized"));
    }

    let (_, database) = app.stop().await;
    let with_body = database
        .count("SELECT count(*) FROM webhook_rejections WHERE body IS NOT NULL")
        .await;
    assert_eq!(with_body, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_even_if_storing_fails() {
    let app = App::start_with(
        Database::postgres_own_server().await,
        &[
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
            ("APP__DATABASE__TIMEOUT_SECS", "2"),
        ],
    )
    .await;
    app.database
        .cluster
        .as_ref()
        .expect("the database has its own server")
        .stop();

    let refused = app.post_webhook("{").await;

    assert_eq!(refused.outcome(), (400, "invalid-payload"));
}
