//! Triggers and policies of the database that suppress rows without an error: the service notices
//! each missing row.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::group_commit::{LONG_TIMEOUT, ONE_WRITER, post_together};
use crate::on_both_databases;
use crate::relay_delivery::{IMAGES, start, statuses, uploaded, wait_for_statuses};
use crate::support::app::{App, CLAIMS_METRIC, TestResponse, client, response_to, wait_for_pass};
use crate::support::database::Database;
use crate::support::plain_user::PlainUser;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};
use crate::support::suppression::Suppression;
use crate::support::wait;

on_both_databases!(
    suppression_of_every_entry_is_logged_at_start,
    suppressed_log_entry_fails_webhook,
    suppressed_log_entry_fails_alone,
    suppressed_image_fails_webhook,
    suppressed_event_fails_webhook,
    suppressed_parking_fails_webhook,
    suppressed_rejection_keeps_400,
    suppressed_application_changes_no_image,
    suppressed_counts_are_reported,
    suppressed_claim_sends_nothing,
    suppressed_result_is_sent_once_per_lease,
    suppressed_attempt_keeps_result,
    suppressed_alert_keeps_result,
);

const FAILED: (u16, &str) = (500, "internal-error");

/// Starts the service as a process, so its log can be read.
fn start_service(database: &Database, variables: &[(&str, &str)]) -> (TempDir, Service) {
    let folder = TempDir::new().expect("a folder");
    let base = [
        ("DATABASE_URL", database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let service = Service::start(folder.path(), &[&base, variables].concat());
    (folder, service)
}

fn start_with_endpoint(database: &Database, subscriber: &Subscriber) -> (TempDir, Service) {
    let endpoints = endpoints(subscriber);
    start_service(database, &[("APP__RELAY__ENDPOINTS", &endpoints)])
}

/// Returns the setting of one endpoint that gets no retries.
fn endpoints(subscriber: &Subscriber) -> String {
    json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "retry": {"max_retries": 0},
    }])
    .to_string()
}

/// Posts a webhook, and returns the status of the answer.
async fn post(service: &Service, body: &str) -> u16 {
    let request = client().post(service.url());
    let request = request.header("cf-webhook-auth", SECRET);
    let answer = response_to(request.body(body.to_owned())).await;
    answer.status.as_u16()
}

/// Returns the first log line whose message contains this text.
fn find_line(service: &Service, message: &str) -> Option<Value> {
    let log = service.log();
    let mut lines = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.find(|line: &Value| line["message"].to_string().contains(message))
}

/// Waits for an error in the log whose message contains this text. Asserts that its fields contain
/// the other text.
async fn wait_for_error(service: &Service, message: &str, field: &str) {
    wait::until_async(message, async || find_line(service, message).is_some()).await;
    let line = find_line(service, message).expect("it is logged");
    assert_eq!(line["level"], "ERROR", "{line}");
    assert!(line.to_string().contains(field), "{line}");
}

async fn wait_for_claims(service: &Service) {
    wait_for_pass(&service.ops_url("/metrics"), CLAIMS_METRIC).await;
}

async fn suppression_of_every_entry_is_logged_at_start(database: Database) {
    let (folder, mut service) = start_service(&database, &[]);
    service.signal("-TERM");
    service.wait();
    drop(folder);
    Suppression::of_inserts("cloudflare_image_logs")
        .start(&database)
        .await;

    let (_folder, service) = start_service(&database, &[]);

    wait_for_error(
        &service,
        "the database refused an audit log entry",
        "cloudflare_image_logs",
    )
    .await;
}

async fn suppressed_log_entry_fails_webhook(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let suppression = Suppression::of_inserts("cloudflare_image_logs");
    suppression.start(&app.database).await;

    let update = app.post_webhook(uploaded("image")).await;
    let test_message = app.post_webhook(r#"{"text":"test message"}"#).await;

    assert_eq!((update.outcome(), test_message.outcome()), (FAILED, FAILED));
    assert_eq!(app.database.image("image").await["status"], "pending");
    suppression.stop(&app.database).await;
    let repeated = app.post_webhook(uploaded("image")).await;
    assert_eq!(repeated.outcome(), (200, "applied"));
    suppression.start(&app.database).await;
    let duplicate = app.post_webhook(uploaded("image")).await;
    assert_eq!(duplicate.outcome(), FAILED);
}

async fn suppressed_log_entry_fails_alone(database: Database) {
    let app = App::start_with(database, &[ONE_WRITER, LONG_TIMEOUT]).await;
    let ids = ["a", "b", "c"];
    for id in ids {
        app.database.register(id).await;
    }
    let when = "CAST(NEW.data AS text) LIKE '%secret%'";
    let suppression = Suppression::of_inserts_when("cloudflare_image_logs", when);
    suppression.start(&app.database).await;
    let bodies = ids.map(|id| {
        let filename = if id == "b" { "secret" } else { "cat.jpg" };
        json!({"id": id, "uploaded": "2024-01-01T12:00:00Z", "filename": filename}).to_string()
    });

    let answers = post_together(&app, bodies.to_vec()).await;

    let outcomes: Vec<_> = answers.iter().map(TestResponse::outcome).collect();
    assert_eq!(outcomes, [(200, "applied"), FAILED, (200, "applied")]);
}

async fn suppressed_image_fails_webhook(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    app.database.register("old").await;
    for suppression in [
        Suppression::of_inserts("cloudflare_images"),
        Suppression::of_updates_when("cloudflare_images", "NEW.status = 'uploaded'"),
    ] {
        suppression.start(&app.database).await;
    }

    let inserted = app.post_webhook(uploaded("new")).await;
    let updated = app.post_webhook(uploaded("old")).await;

    assert_eq!((inserted.outcome(), updated.outcome()), (FAILED, FAILED));
    assert!(app.database.logs().await.is_empty());
    assert!(app.database.rejections().await.is_empty());
}

async fn suppressed_event_fails_webhook(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    app.database.register("image").await;
    for table in ["relay_events", "relay_deliveries"] {
        let suppression = Suppression::of_inserts(table);
        suppression.start(&app.database).await;

        let answer = app.post_webhook(uploaded("image")).await;

        assert_eq!(answer.outcome(), FAILED, "{table}");
        assert_eq!(app.database.image("image").await["status"], "pending");
        suppression.stop(&app.database).await;
    }
    assert!(app.database.events().await.is_empty());
}

async fn suppressed_parking_fails_webhook(database: Database) {
    let app = App::start(database).await;
    let suppression = Suppression::of_inserts("webhook_rejections");
    suppression.start(&app.database).await;

    let early = app.post_webhook(uploaded("early")).await;

    // With 404, the sender would expect that the service applies the notification later.
    assert_eq!(early.outcome(), FAILED);
}

async fn suppressed_rejection_keeps_400(database: Database) {
    let (_folder, service) = start_service(&database, &[]);
    Suppression::of_inserts("webhook_rejections")
        .start(&database)
        .await;

    let answer = post(&service, "no JSON").await;

    assert_eq!(answer, 400);
    wait_for_error(&service, "cannot store a rejection", "webhook_rejections").await;
}

async fn suppressed_application_changes_no_image(database: Database) {
    let app = App::start(database).await;
    let early = app.post_webhook(uploaded("early")).await;
    assert_eq!(early.outcome(), (404, "unknown-image"));
    Suppression::of_updates_when("webhook_rejections", "NEW.state = 'applied'")
        .start(&app.database)
        .await;

    app.database.register("early").await;

    wait::until_async("an attempt is recorded", async || {
        app.database.rejections().await[0]["attempts"] != json!(0)
    })
    .await;
    assert_eq!(app.database.image("early").await["status"], "pending");
    assert!(app.database.logs().await.is_empty());
    let outcome = app.database.rejections().await[0]["outcome"].to_string();
    assert!(
        outcome.contains("fewer rows of webhook_rejections"),
        "{outcome}"
    );
}

async fn suppressed_counts_are_reported(database: Database) {
    let (_folder, mut service) = start_service(&database, &[]);
    Suppression::of_inserts_when("webhook_rejections", "NEW.scheme = 'hmac'")
        .start(&database)
        .await;
    for header in [("x-signature", "00"), ("cf-webhook-auth", "wrong")] {
        let request = client().post(service.url()).header(header.0, header.1);
        assert_eq!(response_to(request.body("{}")).await.status, 401);
    }

    service.signal("-TERM");
    service.wait();

    let line = find_line(&service, "suppressed counts of refused requests");
    let line = line.expect("the suppressed count is logged");
    assert_eq!(
        (&line["level"], &line["suppressed"]),
        (&json!("ERROR"), &json!(1))
    );
    let rows = database.rejections().await;
    assert_eq!((rows.len(), &rows[0]["count"]), (1, &json!(1)));
}

async fn suppressed_claim_sends_nothing(database: Database) {
    let subscriber = Subscriber::start().await;
    let (_folder, service) = start_with_endpoint(&database, &subscriber);
    let suppression = Suppression::of_updates_when("relay_deliveries", "NEW.status = 'leased'");
    suppression.start(&database).await;

    database.register("image").await;
    assert_eq!(post(&service, &uploaded("image")).await, 200);

    wait_for_error(&service, "suppressed the claim of due deliveries", "app").await;
    wait_for_claims(&service).await;
    assert!(subscriber.received().is_empty());
    suppression.stop(&database).await;
    wait_for_statuses(&database, &["delivered"]).await;
}

async fn suppressed_result_is_sent_once_per_lease(database: Database) {
    let subscriber = Subscriber::start().await;
    let (_folder, service) = start_with_endpoint(&database, &subscriber);
    let suppression = Suppression::of_updates_when("relay_deliveries", "NEW.status = 'delivered'");
    suppression.start(&database).await;

    database.register("image").await;
    assert_eq!(post(&service, &uploaded("image")).await, 200);

    wait_for_error(&service, "could not be settled", "relay_deliveries").await;
    wait_for_claims(&service).await;
    assert_eq!(subscriber.received().len(), 1);
    assert_eq!(statuses(&database).await, ["leased"]);
}

async fn suppressed_attempt_keeps_result(database: Database) {
    let subscriber = Subscriber::start().await;
    let (_folder, service) = start_with_endpoint(&database, &subscriber);
    Suppression::of_inserts("relay_attempts")
        .start(&database)
        .await;

    database.register("image").await;
    assert_eq!(post(&service, &uploaded("image")).await, 200);

    wait_for_statuses(&database, &["delivered"]).await;
    let message = "the database suppressed attempts or alerts";
    wait_for_error(&service, message, "relay_attempts").await;
    assert_eq!(subscriber.received().len(), 1);
}

async fn suppressed_alert_keeps_result(database: Database) {
    let subscriber = Subscriber::start().await;
    let url = subscriber.url();
    let (_folder, service) = start_service(
        &database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints(&subscriber)),
            ("APP__RELAY__ON_FAILURE", "callback"),
            ("APP__RELAY__FAILURE_URL", &url),
        ],
    );
    Suppression::of_inserts_when("relay_events", "NEW.event = 'delivery_failed'")
        .start(&database)
        .await;
    subscriber.respond_with(SubscriberResponse::Status(500));

    database.register("image").await;
    assert_eq!(post(&service, &uploaded("image")).await, 200);

    wait_for_statuses(&database, &["failed"]).await;
    let message = "the database suppressed attempts or alerts";
    wait_for_error(&service, message, "relay_events").await;
}

/// A service whose user is subject to row-level security policies.
struct RestrictedService {
    owner: Database,
    service: Service,
    _folder: TempDir,
}

impl RestrictedService {
    /// Starts the service with policies that allow everything on a table, except what `restrictions` say.
    async fn start(table: &str, restrictions: &str) -> Self {
        let owner = Database::postgres().await;
        let (folder, mut service) = start_service(&owner, &[]);
        service.signal("-TERM");
        service.wait();
        drop(folder);
        owner.register("image").await;
        let user = PlainUser::create(&owner).await;
        let name = &user.name;
        owner
            .execute_script(&format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name};
                 ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY everything ON {table} USING (true) WITH CHECK (true);
                 {restrictions}"
            ))
            .await;
        let (folder, service) = start_service(&Database::at(&user.url), &[]);
        Self {
            owner,
            service,
            _folder: folder,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_on_audit_log_fails_webhook() {
    let restricted = RestrictedService::start(
        "cloudflare_image_logs",
        "CREATE POLICY no_insert ON cloudflare_image_logs AS RESTRICTIVE FOR INSERT WITH CHECK (false)",
    )
    .await;

    let answer = post(&restricted.service, &uploaded("image")).await;

    assert_eq!(answer, 500);
    let message = "the database refused an audit log entry";
    wait_for_error(&restricted.service, message, "cloudflare_image_logs").await;
    assert_eq!(restricted.owner.image("image").await["status"], "pending");
    assert!(restricted.owner.logs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_on_images_acknowledges_nothing() {
    // Without its `USING`, Postgres neither updates nor locks a row, and reports no error.
    let restricted = RestrictedService::start(
        "cloudflare_images",
        "CREATE POLICY no_update ON cloudflare_images AS RESTRICTIVE FOR UPDATE USING (false)",
    )
    .await;

    let answer = post(&restricted.service, &uploaded("image")).await;

    assert_ne!(answer, 200);
    assert_eq!(restricted.owner.image("image").await["status"], "pending");
    assert!(restricted.owner.logs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_on_rejections_keeps_400() {
    let restricted = RestrictedService::start(
        "webhook_rejections",
        "CREATE POLICY no_insert ON webhook_rejections AS RESTRICTIVE FOR INSERT WITH CHECK (false)",
    )
    .await;

    let refused = post(&restricted.service, "no JSON").await;
    let early = post(&restricted.service, &uploaded("early")).await;

    assert_eq!((refused, early), (400, 500));
    let message = "cannot store a rejection";
    wait_for_error(&restricted.service, message, "webhook_rejections").await;
    assert!(restricted.owner.rejections().await.is_empty());
}
