//! Limits of rate and concurrency.

use futures_util::future::join_all;
use serde_json::json;

use crate::client_addresses::{TEST_MESSAGE, names_setting, post_webhook_for};
use crate::support::app::{App, TestResponse, response_to};
use crate::support::database::Database;
use crate::support::signing::SECRET;
use crate::support::wait;

/// Starts a service behind a trusted proxy.
async fn start_behind_proxy(variables: &[(&str, &str)]) -> App {
    let base = [("APP__SERVER__TRUSTED_PROXIES", "127.0.0.1")];
    App::start_with(Database::sqlite(), &[&base[..], variables].concat()).await
}

/// Posts webhooks concurrently for a client. Returns the number of accepted ones, and a refused
/// response if there is one.
async fn flood(app: &App, client: &str, count: usize) -> (usize, Option<TestResponse>) {
    let answers =
        join_all((0..count).map(|_| post_webhook_for(app, "x-forwarded-for", client))).await;
    let (admitted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    (admitted.len(), refused.into_iter().next())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_each_client_separately() {
    let app = start_behind_proxy(&[("APP__WEBHOOK__CLIENT_RATE_LIMIT_PER_SECOND", "2")]).await;

    let (admitted, refused) = flood(&app, "203.0.113.7", 60).await;

    let refused = refused.expect("the limit of 2 per second refuses some of 60 webhooks");
    assert!(admitted >= 1, "the first webhooks are accepted");
    assert_eq!(refused.outcome(), (429, "rate-limited"));
    assert!(
        names_setting(&refused, "client_rate_limit_per_second"),
        "{refused:?}"
    );
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(
        post_webhook_for(&app, "x-forwarded-for", "203.0.113.8")
            .await
            .status,
        200
    );
    // The addresses of one IPv6 network count as one client.
    let ipv6_statuses = join_all((0..60).map(|number| {
        let (app, client) = (&app, format!("2001:db8::{number:x}"));
        async move {
            post_webhook_for(app, "x-forwarded-for", &client)
                .await
                .status
        }
    }))
    .await;
    assert!(ipv6_statuses.iter().any(|status| *status == 429));
    wait::until_async("the client is accepted again", async || {
        post_webhook_for(&app, "x-forwarded-for", "203.0.113.7")
            .await
            .status
            == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_all_clients_together() {
    let app = start_behind_proxy(&[("APP__WEBHOOK__RATE_LIMIT_PER_SECOND", "2")]).await;

    let answers = join_all((0..60).map(|number| {
        let (app, client) = (&app, format!("203.0.113.{number}"));
        async move { post_webhook_for(app, "x-forwarded-for", &client).await }
    }))
    .await;

    let refused = answers.iter().find(|answer| answer.status != 200);
    let refused = refused.expect("the limit of 2 per second refuses some of 60 webhooks");
    assert_eq!(refused.outcome(), (429, "rate-limited"));
    assert!(
        names_setting(refused, "rate_limit_per_second"),
        "{refused:?}"
    );
    assert!(refused.headers.contains_key("retry-after"));
    assert!(
        answers.iter().any(|answer| answer.status == 200),
        "the first webhooks are accepted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_concurrent_webhooks() {
    let app = App::start_with(
        Database::postgres().await,
        &[
            ("APP__WEBHOOK__MAX_IN_FLIGHT", "1"),
            // The wait for a row lock lasts a 25th of this timeout.
            ("APP__DATABASE__TIMEOUT_SECS", "300"),
        ],
    )
    .await;
    app.database.register("image").await;
    let lock = app.database.lock_image("image").await;
    let body = json!({"id": "image", "uploaded": "2024-01-01T12:00:00Z"}).to_string();
    let first = app.request(body).header("cf-webhook-auth", SECRET);
    let first = tokio::spawn(response_to(first));
    app.database.wait_for_lock_waiter().await;

    let second = app.post_webhook(TEST_MESSAGE).await;
    lock.release().await;

    assert_eq!(second.outcome(), (503, "busy"));
    assert_eq!(second.headers["retry-after"], "1");
    assert_eq!(first.await.expect("no panic").outcome(), (200, "applied"));
    assert_eq!(
        app.post_webhook(TEST_MESSAGE).await.status,
        200,
        "a finished webhook frees its slot"
    );
}
