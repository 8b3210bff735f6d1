//! `Idempotency-Key`: a repeated request for an upload URL gets the answer of the first one.

use std::sync::Arc;

use cloudflare_images_webhook::shutdown::ExitReason;
use futures_util::future::join_all;
use reqwest::{RequestBuilder, header::HeaderValue};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::on_both_databases;
use crate::support::app::{TestResponse, client, response_to};
use crate::support::cloudflare::{ApiFault, Cloudflare};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::wait;
use crate::upload_url_api::{OTHER_TOKEN, PATH, Setup, TOKEN, header, start_app, variables};

on_both_databases!(
    repeated_request_gets_first_answer,
    key_belongs_to_body_and_token,
    request_in_progress_gets_409,
    concurrent_requests_create_one_image,
    kill_before_commit_loses_no_image,
    kill_before_answer_keeps_url,
    lost_answer_is_asked_for_again,
    uploaded_image_is_never_deleted,
    image_with_chosen_id_is_never_deleted,
    cloudflare_makes_another_id_after_failure,
    refused_request_leaves_key_free,
    client_that_leaves_gets_url_later,
    shutdown_interrupts_request,
    key_is_forgotten_after_a_day,
);

const KEY: &str = "order-4711";

/// Builds a request with a key.
fn request(setup: &Setup, key: &str, body: &Value) -> RequestBuilder {
    let request = setup.request(body).bearer_auth(TOKEN);
    request.header("idempotency-key", key)
}

async fn post(setup: &Setup, key: &str, body: &Value) -> TestResponse {
    response_to(request(setup, key, body)).await
}

fn id(answer: &TestResponse) -> &str {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["id"].as_str().expect("an id")
}

/// Holds the next answer of Cloudflare until a permit is added.
fn hold_answer(cloudflare: &Cloudflare) -> Arc<Semaphore> {
    let permits = Arc::new(Semaphore::new(0));
    cloudflare.fail_next(ApiFault::HeldAnswer(Arc::clone(&permits)));
    permits
}

async fn wait_for_image(cloudflare: &Cloudflare) {
    wait::until_async("Cloudflare has the image", async || {
        cloudflare.image_ids().len() == 1
    })
    .await;
}

async fn repeated_request_gets_first_answer(database: Database) {
    let setup = Setup::start(database).await;
    let metadata = json!({"b": 1, "a": [2.5]});
    let body = json!({"filename": "cat.jpg", "metadata": metadata, "creator": null});
    let first = post(&setup, KEY, &body).await;

    let same = setup.request(&json!({})).bearer_auth(TOKEN);
    let same = same.header("idempotency-key", KEY);
    let other_form = r#"{ "metadata": {"a":[2.5],"b":1}, "filename": "cat.jpg" }"#;
    let second = response_to(same.body(other_form)).await;

    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!((second.status, &second.body), (first.status, &first.body));
    assert_eq!(setup.cloudflare.calls().len(), 1);
    assert_eq!(setup.images().await, 1);
    let row = setup.row(&first.body["id"]).await;
    assert_eq!(row["upload_url"], first.body["upload_url"]);
    assert_eq!(row["expires_at"], first.body["expires_at"]);
}

async fn key_belongs_to_body_and_token(database: Database) {
    let setup = Setup::start(database).await;
    let first = post(&setup, KEY, &json!({"filename": "cat.jpg"})).await;

    let other_body = post(&setup, KEY, &json!({"filename": "dog.jpg"})).await;
    let other_client = setup.request(&json!({"filename": "dog.jpg"}));
    let other_client = other_client.header("idempotency-key", KEY);
    let other_client = response_to(other_client.bearer_auth(OTHER_TOKEN)).await;

    assert_eq!(other_body.outcome(), (422, "idempotency-key-reused"));
    assert_ne!(id(&other_client), id(&first));
    assert_eq!(setup.images().await, 2);
}

async fn request_in_progress_gets_409(database: Database) {
    let setup = Setup::start(database).await;
    let permits = hold_answer(&setup.cloudflare);
    let first = tokio::spawn(response_to(request(&setup, KEY, &json!({}))));
    wait_for_image(&setup.cloudflare).await;

    let second = post(&setup, KEY, &json!({})).await;
    permits.add_permits(1);
    let first = first.await.expect("an answer");
    let third = post(&setup, KEY, &json!({})).await;

    assert_eq!(second.outcome(), (409, "request-in-progress"));
    assert_eq!(header(&second.headers, "retry-after"), "1");
    assert_eq!(first.status, 201);
    assert_eq!(third.body, first.body);
}

/// On Postgres, two replicas get the requests.
async fn concurrent_requests_create_one_image(database: Database) {
    let replica = database.is_postgres().then(|| database.for_replica());
    let setup = Setup::start(database).await;
    let mut services = vec![setup.url()];
    let replica = match replica {
        Some(database) => Some(start_app(database, &setup.cloudflare, &[]).await),
        None => None,
    };
    services.extend(replica.map(|app| format!("http://{}{PATH}", app.address)));
    let requests = (0..20).map(|number| {
        let request = client().post(&services[number % services.len()]);
        let request = request.bearer_auth(TOKEN).header("idempotency-key", KEY);
        response_to(
            request
                .header("content-type", "application/json")
                .body("{}"),
        )
    });

    let answers = join_all(requests).await;
    let last = post(&setup, KEY, &json!({})).await;

    for answer in &answers {
        if answer.outcome() != (409, "request-in-progress") {
            assert_eq!(id(answer), id(&last));
        }
    }
    assert_eq!(setup.cloudflare.image_ids(), [id(&last)]);
    assert_eq!(setup.images().await, 1);
    assert_eq!(setup.cloudflare.calls().len(), 1);
}

/// A service in a process of its own.
struct Process {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Process {
    fn new(database: &Database, cloudflare: &Cloudflare) -> Self {
        let mut variables = variables(cloudflare);
        variables.push(("DATABASE_URL", database.url.clone()));
        variables.push(("APP__CLOUDFLARE__TIMEOUT_SECS", "1".to_owned()));
        Self {
            folder: TempDir::new().expect("a folder"),
            variables,
        }
    }

    fn start(&self) -> Service {
        let variables = self.variables.iter();
        let variables: Vec<_> = variables.map(|(name, value)| (*name, &**value)).collect();
        Service::start(self.folder.path(), &variables)
    }
}

fn request_to(service: &Service) -> RequestBuilder {
    let url = format!("http://127.0.0.1:{}{PATH}", service.port);
    let request = client().post(url).bearer_auth(TOKEN);
    let request = request.header("idempotency-key", KEY);
    request
        .header("content-type", "application/json")
        .body("{}")
}

/// The service is killed between Cloudflare's answer and the commit.
async fn kill_before_commit_loses_no_image(database: Database) {
    let cloudflare = Cloudflare::start().await;
    let _permits = hold_answer(&cloudflare);
    let process = Process::new(&database, &cloudflare);
    let mut service = process.start();
    let lost = tokio::spawn(request_to(&service).send());
    wait_for_image(&cloudflare).await;
    service.signal("-KILL");
    service.wait();
    let answer = lost.await.expect("no panic");
    assert!(answer.is_err(), "the connection is lost");
    let ids = cloudflare.image_ids();
    assert_eq!(database.image(&ids[0]).await["status"], "pending");

    let service = process.start();
    let mut answer = response_to(request_to(&service)).await;
    wait::until_async("the lease has expired", async || {
        let is_in_progress = answer.outcome() == (409, "request-in-progress");
        if is_in_progress {
            answer = response_to(request_to(&service)).await;
        }
        !is_in_progress
    })
    .await;

    assert_eq!(id(&answer), ids[0], "the service asks for the same id");
    assert_eq!(cloudflare.image_ids(), ids);
    let calls = cloudflare.calls();
    let direct_upload = "POST /images/v2/direct_upload";
    let path = format!("/images/v1/{}", ids[0]);
    assert_eq!(
        calls,
        [
            direct_upload.to_owned(),
            direct_upload.to_owned(),
            format!("GET {path}"),
            format!("DELETE {path}"),
            direct_upload.to_owned(),
        ]
    );
    let row = database.image(&ids[0]).await;
    assert_eq!(row["upload_url"], answer.body["upload_url"]);
    assert_eq!(row["expires_at"], answer.body["expires_at"]);
    let images = "SELECT count(*) FROM cloudflare_images";
    assert_eq!(database.count(images).await, 1);
}

/// The service is killed between the commit and the answer, or the answer is lost.
async fn kill_before_answer_keeps_url(database: Database) {
    let cloudflare = Cloudflare::start().await;
    let process = Process::new(&database, &cloudflare);
    let mut service = process.start();
    let lost = tokio::spawn(request_to(&service).send());
    wait::until_async("the URL is committed", async || {
        let finished = "SELECT count(*) FROM cloudflare_upload_requests WHERE state = 'finished'";
        database.count(finished).await == 1
    })
    .await;
    service.signal("-KILL");
    service.wait();
    drop(lost);

    let service = process.start();
    let answer = response_to(request_to(&service)).await;

    let row = database.image(id(&answer)).await;
    assert_eq!(row["upload_url"], answer.body["upload_url"]);
    assert_eq!(cloudflare.image_ids(), [id(&answer)]);
    assert_eq!(cloudflare.calls().len(), 1);
}

async fn lost_answer_is_asked_for_again(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.fail_next(ApiFault::LostAnswer);
    let lost = post(&setup, KEY, &json!({})).await;
    let ids = setup.cloudflare.image_ids();

    let answer = post(&setup, KEY, &json!({})).await;

    assert_eq!(lost.outcome(), (503, "cloudflare-unavailable"));
    assert_eq!([id(&answer)], ids[..]);
    assert_eq!(setup.cloudflare.image_ids(), ids);
    assert_eq!(setup.images().await, 1);
    let row = setup.row(&answer.body["id"]).await;
    assert_eq!(row["upload_url"], answer.body["upload_url"]);
}

async fn uploaded_image_is_never_deleted(database: Database) {
    let setup = Setup::start(database).await;
    setup.cloudflare.fail_next(ApiFault::LostAnswer);
    post(&setup, KEY, &json!({})).await;
    let ids = setup.cloudflare.image_ids();
    setup.cloudflare.add_image(&ids[0], false);

    let answer = post(&setup, KEY, &json!({})).await;

    assert_eq!(answer.outcome(), (409, "image-exists"));
    assert!(!setup.cloudflare.image(&ids[0]).expect("it exists").is_draft);
    assert_eq!(setup.images().await, 1);
}

/// The image may have been there before the request.
async fn image_with_chosen_id_is_never_deleted(database: Database) {
    let setup = Setup::start(database).await;
    let body = json!({"id": "users/7/cat"});
    setup.cloudflare.fail_next(ApiFault::LostAnswer);
    let lost = post(&setup, KEY, &body).await;

    let answer = post(&setup, KEY, &body).await;

    assert_eq!(lost.outcome(), (503, "cloudflare-unavailable"));
    assert_eq!(answer.outcome(), (409, "image-exists"));
    let detail = answer.body["detail"].as_str().expect("a detail");
    assert!(detail.contains("its URL is lost"), "{detail}");
    assert_eq!(setup.cloudflare.image_ids(), ["users/7/cat"]);
    assert_eq!(setup.row(&"users/7/cat".into()).await["status"], "pending");
}

async fn cloudflare_makes_another_id_after_failure(database: Database) {
    let setup = Setup::start(database).await;
    let body = json!({"require_signed_urls": true});
    setup.cloudflare.fail_next(ApiFault::LostAnswer);
    let lost = post(&setup, KEY, &body).await;

    let answer = post(&setup, KEY, &body).await;
    let repeated = post(&setup, KEY, &body).await;

    assert_eq!(lost.outcome(), (503, "cloudflare-unavailable"));
    assert_eq!(id(&answer), "made-by-cloudflare-2");
    assert_eq!(repeated.body, answer.body);
    assert_eq!(setup.images().await, 1);
}

async fn refused_request_leaves_key_free(database: Database) {
    let setup = Setup::start(database).await;
    let refusal = ApiFault::Error(403, 10000, "Authentication error");
    setup.cloudflare.fail_next(refusal);
    let refused = post(&setup, KEY, &json!({"filename": "a"})).await;
    let images = setup.images().await;

    let answer = post(&setup, KEY, &json!({"filename": "b"})).await;

    assert_eq!(refused.outcome(), (502, "cloudflare-failed"));
    assert_eq!(images, 0);
    assert_eq!(setup.row(&id(&answer).into()).await["filename"], "b");
}

async fn client_that_leaves_gets_url_later(database: Database) {
    let setup = Setup::start(database).await;
    let permits = hold_answer(&setup.cloudflare);
    let leaving = tokio::spawn(request(&setup, KEY, &json!({})).send());
    wait_for_image(&setup.cloudflare).await;
    leaving.abort();
    permits.add_permits(1);
    wait::until_async("the URL is committed", async || {
        let finished = "SELECT count(*) FROM cloudflare_upload_requests WHERE state = 'finished'";
        setup.app.database.count(finished).await == 1
    })
    .await;

    let answer = post(&setup, KEY, &json!({})).await;

    assert_eq!(setup.cloudflare.image_ids(), [id(&answer)]);
    assert_eq!(setup.cloudflare.calls().len(), 1);
}

async fn shutdown_interrupts_request(database: Database) {
    let further = [("APP__SHUTDOWN__DEADLINE_SECS", "2")];
    let Setup { cloudflare, app } = Setup::start_with(database, &further).await;
    let _permits = hold_answer(&cloudflare);
    let url = format!("http://{}{PATH}", app.address);
    let request = client().post(url).bearer_auth(TOKEN);
    let request = request.header("idempotency-key", KEY);
    let request = request
        .header("content-type", "application/json")
        .body("{}");
    let interrupted = tokio::spawn(response_to(request));
    wait_for_image(&cloudflare).await;

    let (reason, database) = app.stop().await;
    let interrupted = interrupted.await.expect("an answer");
    let app = start_app(database, &cloudflare, &[]).await;
    let setup = Setup { cloudflare, app };
    let answer = post(&setup, KEY, &json!({})).await;

    assert_eq!(reason, ExitReason::Clean);
    assert_eq!(interrupted.outcome(), (503, "busy"));
    assert_eq!(setup.cloudflare.image_ids(), [id(&answer)]);
}

async fn key_is_forgotten_after_a_day(database: Database) {
    let setup = Setup::start(database).await;
    let first = post(&setup, KEY, &json!({})).await;
    let yesterday = if setup.app.database.is_postgres() {
        "now() - interval '24 hours'"
    } else {
        "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-24 hours')"
    };
    let age = format!("UPDATE cloudflare_upload_requests SET created_at = {yesterday}");
    setup.app.database.execute(&age, &[]).await;

    let second = post(&setup, KEY, &json!({"filename": "another.jpg"})).await;

    assert_ne!(id(&second), id(&first));
    let kept = "SELECT count(*) FROM cloudflare_upload_requests";
    assert_eq!(setup.app.database.count(kept).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_invalid_keys() {
    let setup = Setup::start(Database::sqlite()).await;
    let long = "x".repeat(256);
    for key in ["", &*long, "two words", "gr\u{f6}\u{df}e"] {
        let value = HeaderValue::from_bytes(key.as_bytes()).expect("a header");
        let request = setup.request(&json!({})).bearer_auth(TOKEN);

        let answer = response_to(request.header("idempotency-key", value)).await;

        assert_eq!(answer.outcome(), (400, "invalid-request"), "{key}");
        assert_eq!(answer.body["field"], "Idempotency-Key", "{key}");
    }
    let twice = request(&setup, "a", &json!({})).header("idempotency-key", "b");
    assert_eq!(response_to(twice).await.outcome().0, 400);
    let longest = post(&setup, &long[1..], &json!({})).await;
    assert_eq!(longest.status, 201, "{longest:?}");
    assert_eq!(setup.images().await, 1);
}
