//! Allowed addresses, and the address that counts as the client's.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, TestResponse, response_to};
use crate::support::database::Database;
use crate::support::program::{run, stderr};
use crate::support::signing::SECRET;
use crate::support::wait;

pub(crate) const TEST_MESSAGE: &str = r#"{"text":"test message"}"#;

/// Returns whether a response names this setting.
pub(crate) fn names_setting(answer: &TestResponse, setting: &str) -> bool {
    let detail = answer.body["detail"].as_str().expect("a sentence");
    detail.contains(&format!("webhook.{setting}"))
}

/// Posts a webhook as a local proxy does for a client with this address.
pub(crate) async fn post_webhook_for(app: &App, header: &str, client: &str) -> TestResponse {
    let request = app.request(TEST_MESSAGE).header("cf-webhook-auth", SECRET);
    response_to(request.header(header, client)).await
}

/// Waits until the only count of refused requests is stored, and returns its row.
async fn stored_count(app: &App) -> Value {
    app.clock.advance(Duration::from_mins(1));
    wait::until_async("the count of the minute is stored", async || {
        app.database.rejections().await.len() == 1
    })
    .await;
    app.database.rejections().await.remove(0)
}

on_both_databases!(
    closes_and_counts_disallowed_connections,
    rejects_and_counts_disallowed_clients_of_proxy,
    uses_client_address_from_trusted_proxy,
);

async fn closes_and_counts_disallowed_connections(database: Database) {
    let app = App::start_with(
        database,
        &[("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24")],
    )
    .await;
    let closed = app
        .metric("connections_closed_total{reason=\"not-allowed\"}")
        .await;

    let refused = app.request(TEST_MESSAGE).send().await;

    assert!(refused.is_err(), "{refused:?}");
    let closed_after = app
        .metric("connections_closed_total{reason=\"not-allowed\"}")
        .await;
    assert_eq!(closed_after, closed + 1);
    let row = stored_count(&app).await;
    assert_eq!(
        (&row["status"], &row["reason"], &row["count"]),
        (
            &json!(403),
            &json!("address-not-allowed"),
            &json!(closed_after)
        )
    );
    assert_eq!(
        (&row["client_address"], &row["scheme"], &row["body"]),
        (&json!("127.0.0.0/24"), &json!(""), &json!(null))
    );
    assert_eq!(app.database.logs().await.len(), 0);
}

async fn rejects_and_counts_disallowed_clients_of_proxy(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24"),
        ],
    )
    .await;

    let refused = post_webhook_for(&app, "x-forwarded-for", "198.51.100.1").await;

    assert_eq!(refused.outcome(), (403, "address-not-allowed"));
    assert!(names_setting(&refused, "allowed_addresses"), "{refused:?}");
    let row = stored_count(&app).await;
    assert_eq!(
        (&row["status"], &row["reason"], &row["count"]),
        (&json!(403), &json!("address-not-allowed"), &json!(1))
    );
    assert_eq!(
        (&row["client_address"], &row["scheme"]),
        (&json!("198.51.100.0/24"), &json!("cf-webhook-auth"))
    );
}

async fn uses_client_address_from_trusted_proxy(database: Database) {
    let app = App::start_with(
        database,
        &[
            ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            (
                "APP__WEBHOOK__ALLOWED_ADDRESSES",
                "203.0.113.0/24,2001:db8::/32",
            ),
        ],
    )
    .await;

    for (client, status) in [
        ("203.0.113.7", 200),
        ("2001:db8::1", 200),
        ("198.51.100.1", 403),
        ("203.0.113.7, 198.51.100.1", 403),
    ] {
        assert_eq!(
            post_webhook_for(&app, "x-forwarded-for", client)
                .await
                .status,
            status,
            "{client}"
        );
    }
    assert_eq!(
        post_webhook_for(&app, "cf-connecting-ip", "203.0.113.7")
            .await
            .status,
        403,
        "only the configured header is read"
    );

    let refused = response_to(
        app.request("{")
            .header("cf-webhook-auth", SECRET)
            .header("x-forwarded-for", "203.0.113.9"),
    )
    .await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        app.database.rejections().await[0]["client_address"],
        "203.0.113.9"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ignores_address_headers_without_proxy() {
    let app = App::start_with(
        Database::sqlite(),
        &[("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24")],
    )
    .await;

    for header in [
        "x-forwarded-for",
        "cf-connecting-ip",
        "forwarded",
        "x-real-ip",
    ] {
        let request = app.request(TEST_MESSAGE).header("cf-webhook-auth", SECRET);
        let response = request.header(header, "203.0.113.7").send().await;
        assert!(response.is_err(), "{header}: {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_replaces_cloudflare_networks() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("networks.txt");
    std::fs::write(&file, "# ours\n198.51.100.0/24\n").expect("the file is written");
    let file = file.display().to_string();
    let built_in = [
        ("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("APP__SERVER__CLIENT_ADDRESS_HEADER", "cf-connecting-ip"),
        ("APP__WEBHOOK__ALLOWED_ADDRESSES", "cloudflare"),
    ];
    let replaced = [
        &built_in[..],
        &[("APP__WEBHOOK__CLOUDFLARE_ADDRESSES_FILE", &file)],
    ]
    .concat();

    for (variables, cloudflare_status, other_status) in
        [(&built_in[..], 200, 403), (&replaced, 403, 200)]
    {
        let app = App::start_with(Database::sqlite(), variables).await;
        assert_eq!(
            post_webhook_for(&app, "cf-connecting-ip", "104.16.1.1")
                .await
                .status,
            cloudflare_status
        );
        assert_eq!(
            post_webhook_for(&app, "cf-connecting-ip", "2606:4700::1")
                .await
                .status,
            cloudflare_status
        );
        assert_eq!(
            post_webhook_for(&app, "cf-connecting-ip", "198.51.100.1")
                .await
                .status,
            other_status
        );
    }
}

#[test]
fn rejects_invalid_address_settings() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("empty.txt"), "# nothing\n").expect("the file is written");
    for (variable, value, key) in [
        (
            "APP__WEBHOOK__ALLOWED_ADDRESSES",
            "cloudfare",
            "webhook.allowed_addresses",
        ),
        (
            "APP__SERVER__TRUSTED_PROXIES",
            "the load balancer",
            "server.trusted_proxies",
        ),
        (
            "APP__SERVER__CLIENT_ADDRESS_HEADER",
            "x-real-ip",
            "server.client_address_header",
        ),
        (
            "APP__WEBHOOK__CLOUDFLARE_ADDRESSES_FILE",
            "missing.txt",
            "webhook.cloudflare_addresses_file",
        ),
        (
            "APP__WEBHOOK__CLOUDFLARE_ADDRESSES_FILE",
            "empty.txt",
            "webhook.cloudflare_addresses_file",
        ),
    ] {
        let mut variables = vec![(variable, value)];
        if key.ends_with("_file") {
            variables.push(("APP__WEBHOOK__ALLOWED_ADDRESSES", "cloudflare"));
        }

        let output = run(folder.path(), &["check-config"], &variables);

        assert_eq!(output.status.code(), Some(2), "{value}");
        assert!(
            stderr(&output).contains(key),
            "{value}: {}",
            stderr(&output)
        );
    }
}
