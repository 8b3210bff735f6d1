//! Routes, methods, request ids, and the form of answers.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::on_both_databases;
use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::signing::SECRET;

const TEST_MESSAGE: &str = r#"{"text":"t"}"#;

on_both_databases!(
    the_path_works_with_and_without_the_last_slash,
    the_path_is_a_setting,
    every_method_but_post_is_answered_with_405_and_says_which_is_allowed,
    a_problem_has_a_stable_type_a_title_and_its_status,
    a_success_is_json,
    a_request_id_is_taken_over_or_made_and_is_on_every_answer,
    two_requests_have_two_ids,
);

async fn the_path_works_with_and_without_the_last_slash(database: Database) {
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
            answer(request.body(TEST_MESSAGE)).await.outcome(),
            (200, "test"),
            "{path}"
        );
    }
}

async fn the_path_is_a_setting(database: Database) {
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
            answer(request.body(TEST_MESSAGE)).await.outcome(),
            expected,
            "{path}"
        );
    }
}

async fn every_method_but_post_is_answered_with_405_and_says_which_is_allowed(database: Database) {
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

        let answer = answer(request).await;

        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "POST");
    }
}

async fn a_problem_has_a_stable_type_a_title_and_its_status(database: Database) {
    let app = App::start(database).await;

    let answer = app
        .deliver(r#"{"id":"nobody","uploaded":"2024-01-01T12:00:00Z"}"#)
        .await;

    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(
        answer.body["type"],
        "urn:cloudflare-images-webhook:problem:unknown-image"
    );
    assert_eq!(answer.body["title"], "There is no such image");
    assert_eq!(answer.body["status"], 404);
}

async fn a_success_is_json(database: Database) {
    let app = App::start(database).await;

    let answer = app.deliver(TEST_MESSAGE).await;

    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.body, json!({"outcome": "test"}));
}

async fn a_request_id_is_taken_over_or_made_and_is_on_every_answer(database: Database) {
    let app = App::start(database).await;

    for (given, is_kept) in [
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
            let answer = answer(request.header("x-request-id", given)).await;

            let id = answer.headers["x-request-id"].to_str().expect("text");
            assert_eq!(id == given, is_kept, "{given:?} became {id:?}");
            assert!(!id.is_empty());
        }
    }
    let long = "x".repeat(129);
    let request = app.request(TEST_MESSAGE).header("x-request-id", &long);
    assert_ne!(
        answer(request).await.headers["x-request-id"]
            .to_str()
            .expect("text"),
        long,
        "a long one is not repeated"
    );
}

async fn two_requests_have_two_ids(database: Database) {
    let app = App::start(database).await;

    let (one, two) = (
        app.deliver(TEST_MESSAGE).await,
        app.deliver(TEST_MESSAGE).await,
    );

    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
}
