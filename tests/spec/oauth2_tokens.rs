//! OAuth 2.0 tokens for endpoints. Without a token nothing is delivered.

use std::time::Duration;

use serde_json::{Value, json};

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};
use crate::support::token_server::TokenServer;
use crate::support::wait;

async fn start(
    database: Database,
    subscriber: &Subscriber,
    tokens: &TokenServer,
    settings: Value,
) -> App {
    let mut auth = json!({"type": "oauth2", "client_id": "me", "client_secret": "a secret:+", "token_url": tokens.url(), "scope": "a b"});
    auth.as_object_mut()
        .expect("an object")
        .extend(settings.as_object().expect("an object").clone());
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "events": ["updated"], "auth": auth,
        "retry": {"max_retries": 5, "delay_secs": 60}, "timeout_secs": 5,
    }]);
    App::start_with(
        database,
        &[("APP__RELAY__ENDPOINTS", &endpoints.to_string())],
    )
    .await
}

async fn upload(app: &App, id: &str) {
    app.database.register(id).await;
    let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
    assert_eq!(app.post_webhook(body).await.outcome(), (200, "applied"));
}

async fn wait_until_error_is(app: &App, error: &str) {
    wait::until_async("the attempt has failed", async || {
        app.database
            .texts("SELECT error FROM relay_deliveries")
            .await
            == [error]
    })
    .await;
}

on_both_databases!(
    fetches_one_token_until_expiry,
    sends_client_credentials_in_body,
    replaces_expired_or_rejected_token,
    sends_further_form_fields,
    accepts_token_types_and_lifetimes_of_servers,
    retries_while_token_server_is_down,
    token_request_shares_delivery_timeout,
);

async fn fetches_one_token_until_expiry(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    tokens.set_delay(Duration::from_millis(100));
    tokens.set_expires_in("\"3600\"");
    let app = start(database, &subscriber, &tokens, json!({})).await;

    for id in ["1", "2", "3", "4", "5"] {
        upload(&app, id).await;
    }

    let received = subscriber.wait_for(5).await;
    assert!(
        received
            .iter()
            .all(|one| one.header("authorization") == "Bearer token-1")
    );
    assert_eq!(
        tokens.issued(),
        1,
        "concurrent deliveries wait for the same token"
    );
}

async fn sends_client_credentials_in_body(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    let app = start(
        database,
        &subscriber,
        &tokens,
        json!({"client_authentication": "body"}),
    )
    .await;

    upload(&app, "image").await;

    assert_eq!(
        subscriber.wait_for(1).await[0].header("authorization"),
        "Bearer token-1"
    );
}

async fn sends_further_form_fields(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    tokens.require_fields("&audience=https%3A%2F%2Fapi.example&resource=a+b&resource=c");
    let form = json!({"form": {"audience": "https://api.example", "resource": ["a b", "c"]}});
    let app = start(database, &subscriber, &tokens, form).await;

    upload(&app, "image").await;

    let authorization = subscriber.wait_for(1).await[0]
        .header("authorization")
        .to_owned();
    assert_eq!(authorization, "Bearer token-1");
}

async fn accepts_token_types_and_lifetimes_of_servers(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    let app = start(database, &subscriber, &tokens, json!({})).await;

    // Each lifetime has ended at the next upload.
    let types = ["\"BEARER\"", "\"BearerToken\"", "null", "\"\""];
    for (number, token_type) in (1..).zip(types) {
        tokens.set_token_type(token_type);
        tokens.set_expires_in("\" 0 \"");
        upload(&app, &number.to_string()).await;
        let received = subscriber.wait_for(number).await;
        let expected = format!("Bearer token-{number}");
        assert_eq!(received[number - 1].header("authorization"), expected);
    }
    tokens.set_token_type("\"mac\"");
    upload(&app, "last").await;

    wait::until_async("the last attempt has failed", async || {
        let errors = app
            .database
            .texts("SELECT error FROM relay_deliveries")
            .await;
        errors.iter().any(|error| {
            error == "no token: the token server's response has no usable bearer token"
        })
    })
    .await;
}

async fn replaces_expired_or_rejected_token(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    tokens.set_expires_in("0");
    let app = start(database, &subscriber, &tokens, json!({})).await;
    upload(&app, "1").await;
    subscriber.wait_for(1).await;
    tokens.set_expires_in("3600");
    upload(&app, "2").await;
    subscriber.wait_for(2).await;

    subscriber.respond_first_with([SubscriberResponse::Status(401)]);
    upload(&app, "3").await;
    wait::until_async("the attempt is stored", async || {
        app.database.attempts().await.len() == 3
    })
    .await;
    app.clock.advance(Duration::from_secs(75));

    let received = subscriber.wait_for(4).await;
    let tokens_used: Vec<&str> = received
        .iter()
        .map(|one| one.header("authorization"))
        .collect();
    assert_eq!(
        tokens_used,
        [
            "Bearer token-1",
            "Bearer token-2",
            "Bearer token-2",
            "Bearer token-3"
        ]
    );
}

async fn retries_while_token_server_is_down(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    tokens.set_unavailable(true);
    let app = start(database, &subscriber, &tokens, json!({})).await;

    upload(&app, "image").await;

    wait_until_error_is(
        &app,
        "no token: the token server answered 503 Service Unavailable",
    )
    .await;
    assert_eq!(subscriber.received().len(), 0);
    tokens.set_unavailable(false);
    app.clock.advance(Duration::from_secs(75));
    subscriber.wait_for(1).await;
}

async fn token_request_shares_delivery_timeout(database: Database) {
    let (subscriber, tokens) = (Subscriber::start().await, TokenServer::start().await);
    tokens.set_delay(Duration::from_hours(1));
    let app = start(database, &subscriber, &tokens, json!({})).await;

    upload(&app, "image").await;

    wait_until_error_is(&app, "no complete response within 5 s").await;
    assert_eq!(subscriber.received().len(), 0);
}
