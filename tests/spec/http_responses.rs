//! Routes, methods, request ids and response bodies.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::on_both_databases;
use crate::support::app::{App, response_to};
use crate::support::database::Database;
use crate::support::signing::SECRET;

const TEST_MESSAGE: &str = r#"{"text":"test message"}"#;

on_both_databases!(
    accepts_path_with_or_without_slash,
    path_is_configurable,
    rejects_other_methods_with_405,
    problems_have_type_title_and_status,
    success_is_json,
    reuses_or_creates_request_id,
    request_ids_are_unique,
);

async fn accepts_path_with_or_without_slash(database: Database) {
    let app = App::start(database).await;
    for path in [
        "/cloudflare-images/api/webhook/",
        "/cloudflare-images/api/webhook",
    ] {
        let request = app
            .client()
            .post(format!("http://{}{path}", app.address))
            .header("cf-webhook-auth", SECRET);

        assert_eq!(
            response_to(request.body(TEST_MESSAGE)).await.outcome(),
            (200, "test"),
            "{path}"
        );
    }
}

async fn path_is_configurable(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__PATH", "/hooks/images")]).await;
    for (path, expected) in [
        ("/hooks/images", (200, "test")),
        ("/hooks/images/", (200, "test")),
        ("/cloudflare-images/api/webhook/", (404, "no-such-route")),
    ] {
        let request = app
            .client()
            .post(format!("http://{}{path}", app.address))
            .header("cf-webhook-auth", SECRET);

        assert_eq!(
            response_to(request.body(TEST_MESSAGE)).await.outcome(),
            expected,
            "{path}"
        );
    }
}

async fn rejects_other_methods_with_405(database: Database) {
    let app = App::start(database).await;
    for method in [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ] {
        let request = app
            .client()
            .request(method.clone(), app.url())
            .header("cf-webhook-auth", SECRET);

        let answer = response_to(request).await;

        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "POST");
    }
}

async fn problems_have_type_title_and_status(database: Database) {
    let app = App::start(database).await;

    let answer = app
        .post_webhook(r#"{"id":"nobody","uploaded":"2024-01-01T12:00:00Z"}"#)
        .await;

    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(
        answer.body["type"],
        "urn:cloudflare-images-webhook:problem:unknown-image"
    );
    assert_eq!(answer.body["title"], "The image is unknown");
    assert_eq!(answer.body["status"], 404);
}

async fn success_is_json(database: Database) {
    let app = App::start(database).await;

    let answer = app.post_webhook(TEST_MESSAGE).await;

    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.body, json!({"outcome": "test"}));
}

async fn reuses_or_creates_request_id(database: Database) {
    let app = App::start(database).await;

    for (given, is_reused) in [
        ("from-the-proxy/42", true),
        ("with space", false),
        ("", false),
    ] {
        for request in [
            app.request(TEST_MESSAGE).header("cf-webhook-auth", SECRET),
            app.request(TEST_MESSAGE),
            app.client().get(app.url()),
            app.client().get(format!("http://{}/nowhere", app.address)),
        ] {
            let answer = response_to(request.header("x-request-id", given)).await;

            let id = answer.headers["x-request-id"].to_str().expect("text");
            assert_eq!(id == given, is_reused, "sent {given:?}, received {id:?}");
            assert!(!id.is_empty());
        }
    }
    let long = "x".repeat(129);
    let request = app.request(TEST_MESSAGE).header("x-request-id", &long);
    assert_ne!(
        response_to(request).await.headers["x-request-id"]
            .to_str()
            .expect("text"),
        long,
        "a long request id is replaced"
    );
}

async fn request_ids_are_unique(database: Database) {
    let app = App::start(database).await;

    let (first, second) = (
        app.post_webhook(TEST_MESSAGE).await,
        app.post_webhook(TEST_MESSAGE).await,
    );

    assert_ne!(
        first.headers["x-request-id"],
        second.headers["x-request-id"]
    );
}
