//! `POST upload-url/`: an upload URL of Cloudflare over HTTP, with a token.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::{App, TestResponse, client, response_to};
use crate::support::cloudflare::{self, ApiFault, Cloudflare};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};

on_both_databases!(
    creates_url_and_row,
    requires_valid_token,
    cloudflare_makes_id_for_signed_urls,
    names_each_invalid_field,
    existing_id_gets_409,
    errors_of_cloudflare_become_problems,
    lost_answer_leaves_pending_row,
);

/// The path of the endpoint.
pub(crate) const PATH: &str = "/cloudflare-images/api/upload-url/";

/// A token with the scope `write`.
pub(crate) const TOKEN: &str = "write-token-of-the-tests-0123456789";

/// A token with the scope `read`.
const READ_TOKEN: &str = "read-token-of-the-tests-0123456789";

/// A token of another client with the scope `write`.
pub(crate) const OTHER_TOKEN: &str = "another-token-of-the-tests-0123456789";

/// Cloudflare, and a service that uses it.
pub(crate) struct Setup {
    pub(crate) cloudflare: Cloudflare,
    pub(crate) app: App,
}

/// Returns the variables of a service with the API.
pub(crate) fn variables(cloudflare: &Cloudflare) -> Vec<(&'static str, String)> {
    let tokens = json!([
        format!("app:write:{TOKEN}"),
        format!("other:write:{OTHER_TOKEN}"),
        format!("page:read:{READ_TOKEN}")
    ]);
    let mut variables = vec![("APP__API__TOKENS", tokens.to_string())];
    variables.extend(cloudflare.variables());
    variables
}

impl Setup {
    pub(crate) async fn start(database: Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts a service with additional variables.
    pub(crate) async fn start_with(database: Database, further: &[(&str, &str)]) -> Self {
        let cloudflare = Cloudflare::start().await;
        let app = start_app(database, &cloudflare, further).await;
        Self { cloudflare, app }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.app.address)
    }

    /// Builds a request with a body and without a token.
    pub(crate) fn request(&self, body: &Value) -> RequestBuilder {
        let request = self.app.client().post(self.url());
        request
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    pub(crate) async fn post(&self, body: &Value) -> TestResponse {
        response_to(self.request(body).bearer_auth(TOKEN)).await
    }

    pub(crate) async fn row(&self, id: &Value) -> Value {
        let id = id.as_str().expect("an id");
        self.app.database.image(id).await
    }

    pub(crate) async fn images(&self) -> i64 {
        let statement = "SELECT count(*) FROM cloudflare_images";
        self.app.database.count(statement).await
    }
}

/// Starts a service that uses this Cloudflare.
pub(crate) async fn start_app(
    database: Database,
    cloudflare: &Cloudflare,
    further: &[(&str, &str)],
) -> App {
    let variables = variables(cloudflare);
    let variables = variables.iter().map(|(name, value)| (*name, &**value));
    let variables: Vec<(&str, &str)> = variables.chain(further.iter().copied()).collect();
    // Cloudflare compares the end of an upload URL with its own clock.
    App::start_ahead(database, &variables, Duration::ZERO).await
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value.map_or("", |value| value.to_str().expect("text"))
}

async fn creates_url_and_row(database: Database) {
    let setup = Setup::start(database).await;
    let metadata = json!({"album": "A \"quoted\" name"});
    let body = json!({
        "filename": "cat.jpg", "creator": "user 7", "metadata": metadata, "expiry_minutes": 2,
        "id": null,
    });

    let answer = setup.post(&body).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(header(&answer.headers, "cache-control"), "no-store");
    let names: Vec<_> = answer.body.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["expires_at", "id", "upload_url"]);
    let id = &answer.body["id"];
    let image = setup.cloudflare.image(id.as_str().expect("an id"));
    let image = image.expect("it exists");
    assert_eq!(image.metadata, Some(metadata));
    assert_eq!(image.creator.as_deref(), Some("user 7"));
    let row = setup.row(id).await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["filename"], "cat.jpg");
    assert_eq!(row["upload_url"], answer.body["upload_url"]);
    assert_eq!(row["expires_at"], answer.body["expires_at"]);
}

async fn requires_valid_token(database: Database) {
    let setup = Setup::start(database).await;
    let wrong = format!("Bearer {TOKEN}0");
    let basic = format!("Basic {TOKEN}");
    for authorization in [
        None,
        Some(&*wrong),
        Some(&*basic),
        Some(TOKEN),
        Some("Bearer"),
    ] {
        let mut request = setup.request(&json!({}));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }

        let answer = response_to(request).await;

        assert_eq!(
            answer.outcome(),
            (401, "invalid-token"),
            "{authorization:?}"
        );
        assert_eq!(header(&answer.headers, "www-authenticate"), "Bearer");
    }

    let answer = response_to(setup.request(&json!({})).bearer_auth(READ_TOKEN)).await;
    assert_eq!(answer.outcome(), (403, "insufficient-scope"));
    assert_eq!(setup.images().await, 0);
    assert_eq!(setup.cloudflare.calls(), Vec::<String>::new());
}

async fn cloudflare_makes_id_for_signed_urls(database: Database) {
    let setup = Setup::start(database).await;

    let answer = setup.post(&json!({"require_signed_urls": true})).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.body["id"], "made-by-cloudflare-1");
    let row = setup.row(&answer.body["id"]).await;
    assert_eq!(row["upload_url"], answer.body["upload_url"]);
}

async fn names_each_invalid_field(database: Database) {
    let setup = Setup::start(database).await;
    let long = "x".repeat(1025);
    for (body, field) in [
        (json!({"metadata": []}), "metadata"),
        (json!({"metadata": "{}"}), "metadata"),
        (json!({"metadata": {"a": "x".repeat(1024)}}), "metadata"),
        (json!({"metadata": {"a": "\u{0}"}}), "metadata"),
        (json!({"creator": 7}), "creator"),
        (json!({"creator": &long}), "creator"),
        (json!({"filename": "a\u{0}"}), "filename"),
        (json!({"expiry_minutes": 1}), "expiry_minutes"),
        (json!({"expiry_minutes": 361}), "expiry_minutes"),
        (json!({"expiry_minutes": "30"}), "expiry_minutes"),
        (json!({"expiry_minutes": 2.5}), "expiry_minutes"),
        (
            json!({"require_signed_urls": "true"}),
            "require_signed_urls",
        ),
        (json!({"id": 7}), "id"),
        (json!({"id": " "}), "id"),
        (json!({"id": &long}), "id"),
        (json!({"id": "01890a5d-ac96-774b-bcce-b302099a8057"}), "id"),
        (json!({"id": "users/7/"}), "id"),
        (json!({"id": "\u{1F980}".repeat(700)}), "id"),
        (json!({"id": "x", "require_signed_urls": true}), "id"),
        (json!({"expires": 30}), "expires"),
    ] {
        let answer = setup.post(&body).await;

        assert_eq!(answer.outcome(), (400, "invalid-request"), "{body}");
        assert_eq!(answer.body["field"], field, "{body}");
    }
    assert_eq!(setup.images().await, 0);
    assert_eq!(setup.cloudflare.calls(), Vec::<String>::new());
}

async fn existing_id_gets_409(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.add_image("at-cloudflare", false);
    setup.app.database.register("here").await;
    let before = setup.row(&"here".into()).await;
    for id in ["here", "at-cloudflare"] {
        let answer = setup.post(&json!({"id": id})).await;

        assert_eq!(answer.outcome(), (409, "image-exists"), "{id}");
    }
    assert_eq!(setup.images().await, 1);
    assert_eq!(setup.row(&"here".into()).await, before);
}

async fn errors_of_cloudflare_become_problems(database: Database) {
    let further = [("APP__CLOUDFLARE__TIMEOUT_SECS", "1")];
    let setup = Setup::start_with(database, &further).await;
    for (fault, status, problem) in [
        (
            ApiFault::Error(401, 10000, "Bad token"),
            502,
            "cloudflare-failed",
        ),
        (
            ApiFault::Error(403, 10000, "No access"),
            502,
            "cloudflare-failed",
        ),
        (ApiFault::Error(400, 5400, "No"), 502, "cloudflare-failed"),
        (ApiFault::Redirect, 502, "cloudflare-failed"),
        (ApiFault::TruncatedJson, 502, "cloudflare-failed"),
        (ApiFault::Html(200), 502, "cloudflare-failed"),
        (ApiFault::OtherResult, 502, "cloudflare-failed"),
        (ApiFault::Html(500), 503, "cloudflare-unavailable"),
        (ApiFault::FailedSuccess, 503, "cloudflare-unavailable"),
        (ApiFault::NoAnswer, 504, "cloudflare-timeout"),
        (ApiFault::NoBody, 504, "cloudflare-timeout"),
        // It is the last one, because the service then makes no call for a while.
        (
            ApiFault::TooManyCalls(Some(60)),
            429,
            "cloudflare-rate-limited",
        ),
    ] {
        setup.cloudflare.fail_next(fault.clone());

        let answer = setup.post(&json!({})).await;

        assert_eq!(answer.outcome(), (status, problem), "{fault:?}");
        let text = answer.body.to_string();
        assert!(!text.contains("cause"), "{text}");
        let retry_after = header(&answer.headers, "retry-after");
        assert_eq!(retry_after, if status == 429 { "60" } else { "" });
    }
    let calls = setup.cloudflare.calls().len();

    let answer = setup.post(&json!({})).await;

    assert_eq!(answer.outcome(), (429, "cloudflare-rate-limited"));
    assert_eq!(setup.cloudflare.calls().len(), calls, "no call is made");
}

/// Cloudflare may have the image, so its row must stay.
async fn lost_answer_leaves_pending_row(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.fail_next(ApiFault::LostAnswer);

    let answer = setup.post(&json!({})).await;

    assert_eq!(answer.outcome(), (503, "cloudflare-unavailable"));
    let ids = setup.cloudflare.image_ids();
    assert_eq!(ids.len(), 1);
    assert_eq!(
        setup.row(&ids[0].as_str().into()).await["status"],
        "pending"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn has_no_routes_without_tokens() {
    let app = App::start(Database::sqlite()).await;
    for path in [
        PATH,
        "/cloudflare-images/api/",
        "/cloudflare-images/api/images/",
    ] {
        let url = format!("http://{}{path}", app.address);
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let request = app
                .client()
                .request(method.clone(), &url)
                .bearer_auth(TOKEN);

            let answer = response_to(request).await;

            assert_eq!(answer.outcome(), (404, "no-such-route"), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn needs_account_at_cloudflare() {
    let variables = [("APP__API__TOKENS", TOKEN)];
    let app = App::start_with(Database::sqlite(), &variables).await;
    let url = format!("http://{}{PATH}", app.address);
    let request = app.client().post(url).bearer_auth(TOKEN);
    let request = request.header("content-type", "application/json");

    let answer = response_to(request.body("{}")).await;

    assert_eq!(answer.outcome(), (503, "cloudflare-not-configured"));
    let detail = answer.body["detail"].as_str().expect("a detail");
    assert!(detail.contains("Set cloudflare.account_id"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_other_methods_types_and_sizes() {
    let setup = Setup::start(Database::sqlite()).await;
    let with_body = |method: Method, content_type: &str, body: String| {
        let request = setup.app.client().request(method, setup.url());
        let request = request.header("content-type", content_type);
        request.bearer_auth(TOKEN).body(body)
    };
    let post = |content_type, body: &str| with_body(Method::POST, content_type, body.to_owned());
    let json = "application/json";
    let large = format!(r#"{{"creator":"{}"}}"#, "x".repeat(64 * 1024));
    let chunks = [Ok::<_, std::io::Error>(Frame::data(Bytes::from(
        large.clone(),
    )))];
    let chunked = StreamBody::new(futures_util::stream::iter(chunks));
    let chunked = reqwest::Body::wrap(chunked);
    for (request, expected) in [
        (
            with_body(Method::GET, json, String::new()),
            (405, "method-not-allowed"),
        ),
        (
            with_body(Method::OPTIONS, json, String::new()),
            (405, "method-not-allowed"),
        ),
        (
            with_body(Method::PUT, json, "{}".to_owned()),
            (405, "method-not-allowed"),
        ),
        (post("text/plain", "{}"), (415, "unsupported-media-type")),
        (post("", "{}"), (415, "unsupported-media-type")),
        (post(json, &large), (413, "body-too-large")),
        (post(json, "").body(chunked), (413, "body-too-large")),
        (post(json, ""), (400, "invalid-request")),
        (post(json, "[]"), (400, "invalid-request")),
        (post(json, "{"), (400, "invalid-request")),
        (
            post(json, &format!("{}{}", r#"{"a":"#.repeat(10_000), "1")),
            (400, "invalid-request"),
        ),
        (post("Application/JSON; charset=utf-8", "{}"), (201, "")),
    ] {
        let answer = response_to(request).await;

        assert_eq!(answer.outcome(), expected, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_guesses_tokens_must_wait() {
    let further = [("APP__API__CLIENT_FAILURES_PER_MINUTE", "3")];
    let setup = Setup::start_with(Database::sqlite(), &further).await;
    for _ in 0..3 {
        let request = setup.request(&json!({})).bearer_auth("a guess");
        assert_eq!(response_to(request).await.outcome(), (401, "invalid-token"));
    }

    let request = setup.request(&json!({})).bearer_auth("a guess");
    let guess = response_to(request).await;
    let valid = setup.post(&json!({})).await;

    assert_eq!(guess.outcome(), (429, "rate-limited"));
    assert_ne!(header(&guess.headers, "retry-after"), "");
    assert_eq!(valid.outcome(), (429, "rate-limited"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_allowed_origins_may_call() {
    let origins = r#"["https://app.example", "http://localhost:3000"]"#;
    let setup = Setup::start_with(
        Database::sqlite(),
        &[("APP__API__ALLOWED_ORIGINS", origins)],
    )
    .await;
    for (origin, allowed) in [
        (None, ""),
        (Some("https://app.example"), "https://app.example"),
        (Some("http://localhost:3000"), "http://localhost:3000"),
        (Some("https://app.example.attacker.example"), ""),
        (Some("http://app.example"), ""),
        (Some("null"), ""),
    ] {
        let with_origin = |request: RequestBuilder| match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        let preflight = setup.app.client().request(Method::OPTIONS, setup.url());
        let preflight = preflight.header("access-control-request-method", "POST");

        let preflight = response_to(with_origin(preflight)).await;
        let valid = setup.request(&json!({})).bearer_auth(TOKEN);
        let valid = response_to(with_origin(valid)).await;
        let refused = response_to(with_origin(setup.request(&json!({})))).await;

        let statuses = [&preflight, &valid, &refused].map(|answer| answer.status.as_u16());
        assert_eq!(statuses, [204, 201, 401], "{origin:?}");
        for answer in [&preflight, &valid, &refused] {
            let found = header(&answer.headers, "access-control-allow-origin");
            assert_eq!(found, allowed, "{origin:?}");
            assert_eq!(header(&answer.headers, "vary"), "Origin");
            let credentials = header(&answer.headers, "access-control-allow-credentials");
            assert_eq!(credentials, "");
        }
        let methods = header(&preflight.headers, "access-control-allow-methods");
        assert_eq!(methods, "POST");
        let headers = header(&preflight.headers, "access-control-allow-headers");
        assert!(headers.contains("authorization") && headers.contains("idempotency-key"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_no_cors_headers_by_default() {
    let setup = Setup::start(Database::sqlite()).await;
    let request = setup.request(&json!({})).bearer_auth(TOKEN);

    let answer = response_to(request.header("origin", "https://app.example")).await;

    assert_eq!(answer.status, 201);
    for name in ["access-control-allow-origin", "vary"] {
        assert_eq!(header(&answer.headers, name), "", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_has_no_token_and_url() {
    let (cloudflare, folder) = (Cloudflare::start().await, TempDir::new().expect("a folder"));
    let mut variables = variables(&cloudflare);
    variables.push(("RUST_LOG", "trace".to_owned()));
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let mut service = Service::start(folder.path(), &variables);
    let url = format!("http://127.0.0.1:{}{PATH}", service.port);
    let request = |token: &str| {
        let request = client().post(&url).bearer_auth(token);
        request
            .header("content-type", "application/json")
            .body("{}")
    };

    let answer = response_to(request(TOKEN)).await;
    let refused = response_to(request("a-wrong-token-0123456789")).await;
    service.signal("-TERM");
    assert!(service.wait().success());

    assert_eq!(
        (answer.status, refused.status),
        (StatusCode::CREATED, StatusCode::UNAUTHORIZED)
    );
    let log = service.log();
    let lines: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let line = lines.iter().find(|line| line["status"] == 201);
    let line = line.expect("a line for the request");
    assert_eq!(line["path"], PATH);
    assert_eq!(line["outcome"], "created");
    assert_eq!(line["image_id"], answer.body["id"]);
    assert_eq!(line["request_id"], header(&answer.headers, "x-request-id"));
    let upload_url = answer.body["upload_url"].as_str().expect("a URL");
    let secrets = [
        TOKEN,
        "a-wrong-token-0123456789",
        cloudflare::TOKEN,
        upload_url,
    ];
    for secret in secrets {
        let shown = log.iter().find(|line| line.contains(secret));
        assert_eq!(shown, None, "{secret}");
    }
}

#[test]
fn configuration_shows_no_token() {
    let folder = TempDir::new().expect("a folder");
    let entries = format!("app:write:{TOKEN}\npage:read:{READ_TOKEN}\n");
    std::fs::write(folder.path().join("tokens"), entries).expect("a file");
    let check = |variables: &[(&str, &str)]| run(folder.path(), &["check-config"], variables);

    let from_file = check(&[("APP__API__TOKENS_FILE", "tokens")]);
    let twice = check(&[("APP__API__TOKENS", &format!(r#"["{TOKEN}", "{TOKEN}"]"#))]);
    let path = [
        ("APP__API__TOKENS", TOKEN),
        ("APP__WEBHOOK__PATH", "/cloudflare-images/api/upload-url/"),
    ];
    let path = check(&path);

    assert_eq!(from_file.status.code(), Some(0), "{}", stderr(&from_file));
    assert!(stdout(&from_file).contains(r#"api.tokens = ["***", "***"]"#));
    for (output, rule) in [
        (&twice, "api.tokens: entry 2 has the token of another entry"),
        (&path, "webhook.path: is a path of the HTTP API"),
    ] {
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(output).contains(rule), "{}", stderr(output));
    }
    for output in [&from_file, &twice, &path] {
        let printed = stdout(output) + &stderr(output);
        assert!(!printed.contains(TOKEN) && !printed.contains(READ_TOKEN));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_addresses_limit_webhooks_only() {
    let further = [("APP__WEBHOOK__ALLOWED_ADDRESSES", "203.0.113.0/24")];
    let setup = Setup::start_with(Database::sqlite(), &further).await;

    let upload = setup.post(&json!({})).await;
    let webhook = setup.app.post_webhook(r#"{"text":"hello"}"#).await;

    assert_eq!(upload.status, 201, "{upload:?}");
    assert_eq!(webhook.outcome(), (403, "address-not-allowed"));
}
