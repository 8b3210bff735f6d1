//! What was refused although its sender was proved is kept, with the reason, for somebody to look at.

use serde_json::json;

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::signing::{SECRET, hex_hmac};

/// How much of a body is kept.
const KEPT_BYTES: usize = 64 * 1024;

fn hexadecimal(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

on_both_databases! {
    async fn a_body_that_breaks_a_rule_is_kept_as_it_came(database) {
        let app = App::start(database).await;
        let body = "{\"id\": 7, \u{e9} }";
        let request = app.unsigned(body).header("x-signature", hex_hmac(SECRET, body.as_bytes())).header("x-request-id", "a-request");

        let refused = answer(request).await;

        assert_eq!(refused.outcome(), (400, "invalid-payload"));
        let kept = app.database.rejections().await;
        assert_eq!(kept.len(), 1);
        let row = &kept[0];
        assert_eq!((&row["status"], &row["reason"]), (&json!(400), &json!("invalid-payload")), "what its sender was told");
        assert_eq!(row["problem"], refused.body["detail"]);
        assert_eq!((&row["scheme"], &row["client_address"], &row["request_id"]), (&json!("hmac"), &json!("127.0.0.1"), &json!("a-request")));
        assert_eq!((&row["body"], &row["body_bytes"]), (&json!(hexadecimal(body.as_bytes())), &json!(body.len())));
        assert_eq!((&row["state"], &row["cloudflare_id"], &row["count"]), (&json!("kept"), &json!(null), &json!(1)));
        assert_eq!(row["received_at"], "2024-01-01T12:00:00.000000Z");
    }

    async fn each_is_kept_and_none_is_an_entry_of_the_audit_trail(database) {
        let app = App::start(database).await;

        for body in ["", "{", "[]", r#"{"id":""}"#, "{"] {
            assert_eq!(app.deliver(body).await.outcome(), (400, "invalid-payload"), "{body}");
        }

        assert_eq!(app.database.rejections().await.len(), 5);
        assert_eq!(app.database.logs().await, Vec::<serde_json::Value>::new());
    }

    async fn of_a_long_body_the_beginning_is_kept(database) {
        let app = App::start(database).await;
        let body = "x".repeat(3 * KEPT_BYTES);

        assert_eq!(app.deliver(body.clone()).await.outcome(), (400, "invalid-payload"));

        let kept = app.database.rejections().await;
        assert_eq!(kept[0]["body"], hexadecimal(&body.as_bytes()[..KEPT_BYTES]));
        assert_eq!(kept[0]["body_bytes"], 3 * KEPT_BYTES);
    }

    async fn nothing_is_kept_of_somebody_without_the_secret(database) {
        let app = App::start(database).await;

        for body in ["{", r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#] {
            let refused = answer(app.unsigned(body).header("cf-webhook-auth", "a guess")).await;
            assert_eq!(refused.outcome(), (401, "unauthorized"));
        }

        let with_a_body = app.database.count("SELECT count(*) FROM webhook_rejections WHERE body IS NOT NULL").await;
        assert_eq!(with_a_body, 0);
    }
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
