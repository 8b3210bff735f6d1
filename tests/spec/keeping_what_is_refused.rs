//! What was refused although its sender was proved is kept, with the reason, for somebody to look at.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::signing::{SECRET, hex_hmac};
use crate::support::wait;

/// How much of a body is kept.
const KEPT_BYTES: usize = 64 * 1024;

fn hexadecimal(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

on_both_databases!(
    a_body_that_breaks_a_rule_is_kept_as_it_came,
    each_is_kept_and_none_is_an_entry_of_the_audit_trail,
    of_a_long_body_the_beginning_is_kept,
    how_many_came_without_proof_is_counted_by_the_minute_and_network,
    a_minute_that_is_not_over_is_written_down_at_the_end_and_added_to,
    nothing_is_kept_of_somebody_without_the_secret,
);

async fn a_body_that_breaks_a_rule_is_kept_as_it_came(database: Database) {
    let app = App::start(database).await;
    let body = "{\"id\": 7, \u{e9} }";
    let request = app
        .unsigned(body)
        .header("x-signature", hex_hmac(SECRET, body.as_bytes()))
        .header("x-request-id", "a-request");

    let refused = answer(request).await;

    assert_eq!(refused.outcome(), (400, "invalid-payload"));
    let kept = app.database.rejections().await;
    assert_eq!(kept.len(), 1);
    let row = &kept[0];
    assert_eq!(
        (&row["status"], &row["reason"]),
        (&json!(400), &json!("invalid-payload")),
        "what its sender was told"
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

async fn each_is_kept_and_none_is_an_entry_of_the_audit_trail(database: Database) {
    let app = App::start(database).await;

    for body in ["", "{", "[]", r#"{"id":""}"#, "{"] {
        assert_eq!(
            app.deliver(body).await.outcome(),
            (400, "invalid-payload"),
            "{body}"
        );
    }

    assert_eq!(app.database.rejections().await.len(), 5);
    assert_eq!(app.database.logs().await, Vec::<Value>::new());
}

async fn of_a_long_body_the_beginning_is_kept(database: Database) {
    let app = App::start(database).await;
    let body = "x".repeat(3 * KEPT_BYTES);

    assert_eq!(
        app.deliver(body.clone()).await.outcome(),
        (400, "invalid-payload")
    );

    let kept = app.database.rejections().await;
    assert_eq!(kept[0]["body"], hexadecimal(&body.as_bytes()[..KEPT_BYTES]));
    assert_eq!(kept[0]["body_bytes"], 3 * KEPT_BYTES);
}

async fn how_many_came_without_proof_is_counted_by_the_minute_and_network(database: Database) {
    let app = App::start(database).await;
    for _ in 0..3 {
        answer(app.unsigned("{").header("x-signature", "00")).await;
    }
    answer(app.unsigned("{")).await;
    assert_eq!(
        app.database.rejections().await,
        Vec::<Value>::new(),
        "nothing is written on their way"
    );

    app.clock.advance(Duration::from_mins(1));
    wait::until_async("the minute is written down", async || {
        app.database.rejections().await.len() == 2
    })
    .await;

    let rows = app.database.rejections().await;
    let of = |scheme: &str| {
        rows.iter()
            .find(|row| row["scheme"] == scheme)
            .expect("a row")
            .clone()
    };
    assert_eq!(
        (&of("hmac")["count"], &of("")["count"]),
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

async fn a_minute_that_is_not_over_is_written_down_at_the_end_and_added_to(database: Database) {
    let app = App::start(database).await;
    answer(app.unsigned("{")).await;
    let (_, database) = app.stop().await;
    // Its clock stands in the same minute.
    let app = App::start(database).await;
    answer(app.unsigned("{")).await;
    let (_, database) = app.stop().await;

    let rows = database.rejections().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["count"], 2);
}

async fn nothing_is_kept_of_somebody_without_the_secret(database: Database) {
    let app = App::start(database).await;

    for body in ["{", r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#] {
        let refused = answer(app.unsigned(body).header("cf-webhook-auth", "a guess")).await;
        assert_eq!(refused.outcome(), (401, "unauthorized"));
    }

    let (_, database) = app.stop().await;
    let with_a_body = database
        .count("SELECT count(*) FROM webhook_rejections WHERE body IS NOT NULL")
        .await;
    assert_eq!(with_a_body, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_cannot_be_written_down_is_a_refusal_all_the_same() {
    let app = App::start_with(
        Database::postgres_of_its_own().await,
        &[
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
            ("APP__DATABASE__TIMEOUT_SECS", "2"),
        ],
    )
    .await;
    app.database
        .cluster
        .as_ref()
        .expect("a server of its own")
        .stop();

    let refused = app.deliver("{").await;

    assert_eq!(refused.outcome(), (400, "invalid-payload"));
}
