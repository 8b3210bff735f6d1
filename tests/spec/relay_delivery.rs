//! Delivery of events to endpoints.

use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::group_commit::{LONG_TIMEOUT, ONE_WRITER, deliver_together};
use crate::on_both_databases;
use crate::support::app::{App, CLAIMS_METRIC, answer, client, wait_for_pass};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::subscriber::{Answer, RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";
const LOGS: &str = "cloudflare_images.ImageUploadLog";

/// Starts a service with one endpoint for images and these additional endpoint settings.
async fn start(database: Database, subscriber: &Subscriber, settings: Value) -> App {
    let mut endpoint = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
        "retry": {"max_retries": 2, "delay_secs": 60},
    });
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    start_with_endpoints(database, &json!([endpoint])).await
}

async fn start_with_endpoints(database: Database, endpoints: &Value) -> App {
    App::start_with(
        database,
        &[("APP__RELAY__ENDPOINTS", &endpoints.to_string())],
    )
    .await
}

/// Returns a notification that the image was uploaded.
pub(crate) fn uploaded(id: &str) -> String {
    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z", "filename": "cat.jpg"}).to_string()
}

/// Registers an image and delivers the notification of its upload.
pub(crate) async fn upload(app: &App, id: &str) {
    app.database.register(id).await;
    assert_eq!(app.deliver(uploaded(id)).await.outcome(), (200, "applied"));
}

/// Returns the statuses of all deliveries, in order.
pub(crate) async fn statuses(database: &Database) -> Vec<String> {
    database
        .texts("SELECT status FROM relay_deliveries ORDER BY id")
        .await
}

async fn wait_for_statuses(database: &Database, expected: &[&str]) {
    wait::until_async("the deliveries have the expected statuses", async || {
        statuses(database).await == expected
    })
    .await;
}

on_both_databases!(
    has_changes_and_current_row,
    stores_each_delivery_and_attempt,
    publishes_nothing_without_change,
    writes_nothing_without_endpoint,
    publishes_audit_entries,
    audit_payloads_match_rows,
    audit_payload_matches_row_despite_triggers,
    publishes_inserted_image_as_created,
    delivers_only_wanted_events,
    endpoints_share_event_and_id,
    retries_with_same_id,
    fails_after_last_attempt_until_replay,
    pauses_endpoint_after_410,
    honors_retry_after,
    fails_on_redirect,
    fails_on_incomplete_response,
    reads_only_start_of_long_response,
    hanging_endpoint_delays_no_other,
    respects_endpoint_rate_limit,
    opens_after_failures_then_delivers_all,
    opening_releases_leased_deliveries,
    filtered_events_need_no_cooldown,
    delivers_in_order_if_configured,
    redelivers_after_lease_expires,
    applies_field_filters,
    when_condition_filters_events,
    transform_sees_only_allowed_fields,
    failing_transform_fails_attempt,
    kill_during_attempt_causes_redelivery,
    shutdown_finishes_attempts_and_releases_leases,
    delivers_after_configured_pause_ends,
);

async fn has_changes_and_current_row(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    app.database
        .execute(
            "INSERT INTO cloudflare_images (cloudflare_id, metadata, width) \
             VALUES ('image', '{\"album\": 7}', 640)",
            &[],
        )
        .await;

    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let message = subscriber.wait_for(1).await.remove(0);
    let (payload, row) = (message.json(), app.database.image("image").await);
    assert_eq!(payload["id"], message.event_id());
    assert_eq!(
        (&payload["event"], &payload["timestamp"], &payload["user"]),
        (
            &json!("updated"),
            &json!("2024-01-01T12:00:00.000000Z"),
            &Value::Null
        )
    );
    assert_eq!(
        payload["model"],
        json!({"app": "cloudflare_images", "name": "CloudflareImage", "label": IMAGES})
    );
    assert_eq!(
        payload["changes"],
        json!({
            "status": {"old": "pending", "new": "uploaded"},
            "status_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "uploaded_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "filename": {"old": "", "new": "cat.jpg"},
        })
    );
    for (column, value) in payload["object"].as_object().expect("an object") {
        assert_eq!(value, &row[column], "{column}");
    }
    let missing: Vec<&String> = row
        .as_object()
        .expect("an object")
        .keys()
        .filter(|column| payload["object"].get(column).is_none())
        .collect();
    assert_eq!(
        missing,
        ["details_at", "upload_url"],
        "details_at is internal, and upload_url would permit uploads"
    );
}

async fn stores_each_delivery_and_attempt(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["delivered"]).await;
    let message = subscriber.received().remove(0);
    let delivery = app.database.deliveries().await.remove(0);
    for (column, value) in [
        ("event_id", json!(message.event_id())),
        ("endpoint", json!("app")),
        ("status_code", json!(200)),
        ("error", json!("")),
        ("attempts", json!(1)),
        ("due_at", Value::Null),
        ("completed_at", json!("2024-01-01T12:00:00.000000Z")),
    ] {
        assert_eq!(delivery[column], value, "{column}");
    }
    let attempt = app.database.attempts().await.remove(0);
    assert_eq!(
        (
            &attempt["delivery_id"],
            &attempt["number"],
            &attempt["status_code"]
        ),
        (&delivery["id"], &json!(1), &json!(200))
    );
    let payload = app.database.texts("SELECT payload FROM relay_events").await;
    assert_eq!(
        payload,
        [String::from_utf8(message.body.to_vec()).expect("text")],
        "the stored payload is the bytes that were signed and sent"
    );
}

async fn publishes_nothing_without_change(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;

    let duplicate = app.deliver(uploaded("image")).await;
    let stale = app
        .deliver(
            json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string(),
        )
        .await;

    assert_eq!(
        (duplicate.outcome(), stale.outcome()),
        ((200, "duplicate"), (200, "stale"))
    );
    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        1
    );
}

async fn writes_nothing_without_endpoint(database: Database) {
    let app = App::start(database).await;

    upload(&app, "image").await;

    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        0
    );
}

async fn publishes_audit_entries(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;

    upload(&app, "image").await;
    let _duplicate = app.deliver(uploaded("image")).await;

    let payloads: Vec<Value> = subscriber
        .wait_for(2)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut types: Vec<&Value> = payloads
        .iter()
        .map(|payloads| &payloads["object"]["event_type"])
        .collect();
    types.sort_by_key(ToString::to_string);
    assert_eq!(types, ["webhook_duplicate", "webhook_received"]);
    for payloads in &payloads {
        assert_eq!(
            (
                &payloads["event"],
                &payloads["model"]["label"],
                &payloads["changes"]
            ),
            (&json!("created"), &json!(LOGS), &Value::Null)
        );
        assert_eq!(payloads["object"]["data"]["payload"]["id"], "image");
        assert_eq!(
            payloads["object"]["image_id"],
            app.database.image("image").await["id"]
        );
    }
}

async fn audit_payloads_match_rows(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints =
        json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET}]).to_string();
    let app = App::start_with(
        database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints),
            ONE_WRITER,
            LONG_TIMEOUT,
        ],
    )
    .await;
    for id in ["one", "two"] {
        app.database.register(id).await;
    }

    let test =
        json!({"text": "Hello World! This is a test message sent from https://cloudflare.com."})
            .to_string();
    let answers = deliver_together(
        &app,
        vec![uploaded("two"), uploaded("one"), uploaded("two"), test],
    )
    .await;

    let outcomes: Vec<_> = answers.iter().map(|answer| answer.outcome().1).collect();
    assert_eq!(outcomes, ["applied", "applied", "duplicate", "test"]);
    // The other three events are about images: `one`, `two` and `held`.
    let payloads: Vec<Value> = subscriber
        .wait_for(8)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut payloads: Vec<&Value> = payloads
        .iter()
        .filter(|payloads| payloads["model"]["label"] == LOGS)
        .collect();
    payloads.sort_by_key(|payloads| payloads["id"].to_string());
    let rows = app.database.logs().await;
    assert_eq!((payloads.len(), rows.len()), (5, 5));
    for (payloads, row) in payloads.iter().zip(&rows) {
        let mut object = payloads["object"].clone();
        let cloudflare_id = object
            .as_object_mut()
            .expect("an object")
            .remove("cloudflare_id")
            .expect("the payload has cloudflare_id");
        assert_eq!(&object, row);
        let id_in_row = row["data"]["payload"]["id"]
            .as_str()
            .or(row["data"]["payload"]["data"]["image"]["id"].as_str());
        assert_eq!(cloudflare_id.as_str(), id_in_row);
    }
}

async fn audit_payload_matches_row_despite_triggers(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;
    app.database
        .execute_script(if app.database.is_postgres() {
            "CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO cloudflare_image_logs (event_type) VALUES ('echo');
                 RETURN NULL;
             END $$;
             CREATE TRIGGER echo AFTER INSERT ON cloudflare_image_logs
                 FOR EACH ROW WHEN (NEW.event_type <> 'echo') EXECUTE FUNCTION echo();"
        } else {
            "CREATE TRIGGER echo AFTER INSERT ON cloudflare_image_logs
                 WHEN NEW.event_type <> 'echo' BEGIN
                 INSERT INTO cloudflare_image_logs (event_type) VALUES ('echo');
             END;"
        })
        .await;

    upload(&app, "image").await;
    let _duplicate = app.deliver(uploaded("image")).await;

    for payload in subscriber.wait_for(2).await.iter().map(Received::json) {
        let rows = app.database.logs().await;
        let row = rows
            .iter()
            .find(|row| row["id"] == payload["object"]["id"])
            .expect("the audit log has the row");
        assert_eq!(row["message"], payload["object"]["message"]);
    }
}

async fn publishes_inserted_image_as_created(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]}]);
    let app = App::start_with(
        database,
        &[
            ("APP__RELAY__ENDPOINTS", &endpoints.to_string()),
            ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
        ],
    )
    .await;

    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let payload = subscriber.wait_for(1).await[0].json();
    assert_eq!(
        (
            &payload["event"],
            &payload["changes"],
            &payload["object"]["status"]
        ),
        (&json!("created"), &Value::Null, &json!("uploaded"))
    );
    wait_for_statuses(&app.database, &["delivered"]).await;
}

async fn delivers_only_wanted_events(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let app = start_with_endpoints(database, &json!([
            {"name": "new", "url": first.url(), "secret": RELAY_SECRET, "events": ["created"], "exclude_models": [LOGS]},
            {"name": "changed", "url": second.url(), "secret": RELAY_SECRET, "events": ["updated", "deleted"]},
        ])).await;

    upload(&app, "image").await;

    second.wait_for(1).await;
    assert_eq!(
        app.database
            .texts("SELECT endpoint FROM relay_deliveries")
            .await,
        ["changed"]
    );
}

async fn endpoints_share_event_and_id(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]
        })
    };
    let app = start_with_endpoints(
        database,
        &json!([endpoint("first", &first), endpoint("second", &second)]),
    )
    .await;

    upload(&app, "image").await;

    let (first, second) = (
        first.wait_for(1).await.remove(0),
        second.wait_for(1).await.remove(0),
    );
    assert_eq!(
        (first.event_id(), &first.body),
        (second.event_id(), &second.body)
    );
}

async fn retries_with_same_id(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer_first([Answer::Status(500), Answer::Status(503)]);
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["retrying"]).await;

    app.clock.advance(Duration::from_secs(75));
    subscriber.wait_for(2).await;
    wait::until_async("the second attempt is stored", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    app.clock.advance(Duration::from_secs(150));

    let received = subscriber.wait_for(3).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert!(
        received
            .iter()
            .all(|one| one.event_id() == received[0].event_id() && one.body == received[0].body)
    );
    let attempts = app.database.attempts().await;
    let results: Vec<(&Value, &Value)> = attempts
        .iter()
        .map(|attempt| (&attempt["number"], &attempt["status_code"]))
        .collect();
    assert_eq!(
        results,
        [
            (&json!(1), &json!(500)),
            (&json!(2), &json!(503)),
            (&json!(3), &json!(200))
        ]
    );
    assert_eq!(attempts[0]["error"], "answered 500 Internal Server Error");
}

async fn fails_after_last_attempt_until_replay(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["gave_up"]).await;

    subscriber.answer(Answer::Status(204));
    app.database
        .execute(
            "UPDATE relay_deliveries SET status = 'pending', \
             due_at = created_at, completed_at = NULL",
            &[],
        )
        .await;

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn pauses_endpoint_after_410(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(410));
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "first").await;
    wait::until_async("the endpoint is paused", async || {
        app.database
            .count("SELECT count(*) FROM relay_endpoints WHERE paused_at IS NOT NULL")
            .await
            == 1
    })
    .await;
    wait_for_statuses(&app.database, &["retrying"]).await;

    upload(&app, "second").await;
    app.clock.advance(Duration::from_hours(1));
    app.wait_for_claim().await;
    assert_eq!(statuses(&app.database).await, ["retrying", "pending"]);
    assert_eq!(
        subscriber.received().len(),
        1,
        "a paused endpoint receives nothing"
    );
    subscriber.answer(Answer::Status(200));
    app.database
        .execute("UPDATE relay_endpoints SET paused_at = NULL", &[])
        .await;

    subscriber.wait_for(3).await;
    wait_for_statuses(&app.database, &["delivered", "delivered"]).await;
}

async fn honors_retry_after(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::WithHeader(429, "retry-after", "1000".to_owned()));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["retrying"]).await;
    let due_at = app.database.deliveries().await[0]["due_at"]
        .as_str()
        .expect("a time")
        .to_owned();
    let (earliest, latest) = ("2024-01-01T12:16:40.000000Z", "2024-01-01T12:20:50.000000Z");
    assert!(
        earliest <= due_at.as_str() && due_at.as_str() <= latest,
        "{due_at}"
    );
}

async fn fails_on_redirect(database: Database) {
    let (subscriber, elsewhere) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.answer(Answer::WithHeader(307, "location", elsewhere.url()));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["gave_up"]).await;
    assert_eq!(elsewhere.received().len(), 0);
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "answered 307 Temporary Redirect, and redirects are not followed"
    );
}

async fn fails_on_incomplete_response(database: Database) {
    let (endless, broken, silent) = (
        Subscriber::start().await,
        Subscriber::start().await,
        Subscriber::start().await,
    );
    endless.answer(Answer::EndlessBody);
    broken.answer(Answer::TruncatedBody);
    silent.answer(Answer::NoResponse);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "timeout_secs": 1, "retry": {"max_retries": 0},
        })
    };
    let refusing = json!({"name": "4", "url": "http://127.0.0.1:1/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let unknown = json!({"name": "5", "url": "http://no-such-host.invalid/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let app = start_with_endpoints(
        database,
        &json!([
            endpoint("1", &endless),
            endpoint("2", &broken),
            endpoint("3", &silent),
            refusing,
            unknown
        ]),
    )
    .await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["gave_up"; 5]).await;
    let errors = app
        .database
        .texts("SELECT error FROM relay_deliveries ORDER BY endpoint")
        .await;
    assert_eq!(errors[0], "there was no whole answer within 1 s");
    assert!(
        errors[1].starts_with("the answer broke off"),
        "{}",
        errors[1]
    );
    assert_eq!(errors[2], errors[0]);
    assert!(errors[3].contains("refused"), "{}", errors[3]);
    assert!(errors[4].contains("dns"), "{}", errors[4]);
}

async fn reads_only_start_of_long_response(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::LongBody(10_000_000));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["delivered"]).await;
}

async fn hanging_endpoint_delays_no_other(database: Database) {
    let (hanging, good) = (Subscriber::start().await, Subscriber::start().await);
    hanging.answer(Answer::NoResponse);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "max_in_flight": 1
        })
    };
    let app = start_with_endpoints(
        database,
        &json!([endpoint("hanging", &hanging), endpoint("good", &good)]),
    )
    .await;

    for id in ["1", "2", "3", "4", "5"] {
        upload(&app, id).await;
    }

    good.wait_for(5).await;
    assert_eq!(
        hanging.received().len(),
        1,
        "max_in_flight allows one attempt"
    );
}

async fn respects_endpoint_rate_limit(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"rate_limit_per_second": 1})).await;
    let started = Instant::now();
    for id in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        upload(&app, id).await;
    }
    subscriber.wait_for(3).await;

    // The limit allows the first attempt at once and one more per elapsed second, on a machine of
    // any speed.
    let attempts = subscriber.received().len() as u64;
    let allowed = 1 + started.elapsed().as_secs();
    assert!(
        attempts <= allowed,
        "{attempts} attempts, {allowed} allowed"
    );
    assert_eq!(
        app.database
            .attempts()
            .await
            .iter()
            .filter(|attempt| attempt["error"] != "")
            .count(),
        0,
        "waiting is not a failed attempt"
    );
}

async fn opens_after_failures_then_delivers_all(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let app = start(database, &subscriber, json!({"max_in_flight": 1})).await;
    let ids: Vec<String> = (0..30).map(|number| format!("image-{number}")).collect();
    let started = Instant::now();

    for id in &ids {
        upload(&app, id).await;
    }
    subscriber.wait_for(6).await;

    // The breaker allows five attempts at once, and one after each elapsed cooldown of 1, 2, 4, 8,
    // 16 and then 30 s.
    let attempts = subscriber.received().len();
    let cooldown_ends = [1, 3, 7, 15, 31, 61, 91, 121];
    let seconds = started.elapsed().as_secs();
    let cooldowns = cooldown_ends.iter().filter(|end| **end <= seconds).count();
    assert!(
        attempts <= 5 + cooldowns,
        "{attempts} attempts in {seconds} s"
    );
    assert!(attempts < 10, "{attempts} attempts");
    subscriber.answer(Answer::Status(200));
    // A failure that is settled after the clock advances would be due too late.
    wait::until_async("the failed attempts are stored", async || {
        app.database.attempts().await.len() >= attempts
    })
    .await;
    app.clock.advance(Duration::from_secs(75));
    wait_for_statuses(&app.database, &vec!["delivered"; ids.len()]).await;
}

async fn opening_releases_leased_deliveries(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let paused = start(
        database,
        &subscriber,
        json!({"max_in_flight": 10, "paused": true}),
    )
    .await;
    for number in 0..20 {
        upload(&paused, &format!("image-{number}")).await;
    }
    let (_, database) = paused.stop().await;

    // All twenty are leased at once, and ten of them wait for a slot.
    let app = start(database, &subscriber, json!({"max_in_flight": 10})).await;

    wait::until_async("some deliveries are released", async || {
        let attempts = app
            .database
            .count("SELECT count(*) FROM relay_attempts")
            .await;
        attempts >= 5
            && statuses(&app.database)
                .await
                .contains(&"pending".to_owned())
    })
    .await;
    // A restarted service has no failure history, so its breaker is closed.
    let (_, database) = app.stop().await;
    subscriber.answer(Answer::Status(200));
    let app = start(database, &subscriber, json!({})).await;
    app.clock.advance(Duration::from_secs(75));
    wait_for_statuses(&app.database, &["delivered"; 20]).await;
}

async fn filtered_events_need_no_cooldown(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let app = start(database, &subscriber, json!({
        "max_in_flight": 10, "when": ".object.filename != \"cat.jpg\"", "retry": {"max_retries": 0},
    })).await;
    for number in 0..5 {
        let id = format!("wanted-{number}");
        app.database.register(&id).await;
        let failed = json!({"id": id, "error": "too large", "timestamp": "2024-01-01T12:00:00Z"})
            .to_string();
        assert_eq!(app.deliver(failed).await.outcome(), (200, "applied"));
    }
    subscriber.wait_for(5).await;

    for number in 0..200 {
        upload(&app, &format!("unwanted-{number}")).await;
    }

    // One cooldown is enough for all of them.
    wait::until_async("all unwanted events are filtered", async || {
        app.database
            .count("SELECT count(*) FROM relay_deliveries WHERE status = 'filtered'")
            .await
            == 200
    })
    .await;
}

async fn delivers_in_order_if_configured(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer_first([Answer::Status(500)]);
    let app = start(database, &subscriber, json!({"ordered": true})).await;
    app.database.register("image").await;
    let draft =
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string();

    assert_eq!(app.deliver(draft).await.outcome(), (200, "applied"));
    subscriber.wait_for(1).await;
    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "applied")
    );
    upload(&app, "another").await;
    subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["retrying", "pending", "delivered"]).await;
    app.clock.advance(Duration::from_secs(75));

    let received = subscriber.wait_for(4).await;
    let delivered: Vec<(String, String)> = received
        .iter()
        .map(|one| {
            let object = &one.json()["object"];
            (
                object["cloudflare_id"].to_string(),
                object["status"].to_string(),
            )
        })
        .collect();
    let delivered: Vec<(&str, &str)> = delivered
        .iter()
        .map(|(id, status)| (id.trim_matches('"'), status.trim_matches('"')))
        .collect();
    assert_eq!(
        delivered,
        [
            ("image", "draft"),
            ("another", "uploaded"),
            ("image", "draft"),
            ("image", "uploaded")
        ]
    );
}

async fn redelivers_after_lease_expires(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    // The state after a kill between the response and the settlement.
    let lease_expires_at = if app.database.is_postgres() {
        "2024-01-01 12:01:30+00"
    } else {
        "2024-01-01T12:01:30.000000Z"
    };
    let sql = format!(
        "UPDATE relay_deliveries SET status = 'leased', lease = 'of the dead', due_at = '{lease_expires_at}', completed_at = NULL"
    );
    app.database.execute(&sql, &[]).await;

    app.wait_for_claim().await;
    assert_eq!(statuses(&app.database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "the lease has not expired");
    app.clock.advance(Duration::from_secs(91));

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn applies_field_filters(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({
            "include_fields": {"*": ["id", "status", "filename", "creator", "metadata"]},
            "exclude_fields": {"*": ["metadata.secret"], IMAGES: ["creator"]},
            "redact_fields": {IMAGES: {"filename": "***"}},
        }),
    )
    .await;
    app.database
        .execute(
            "INSERT INTO cloudflare_images (cloudflare_id, metadata) \
             VALUES ('image', '{\"secret\": 1, \"album\": 7}')",
            &[],
        )
        .await;

    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    let message = subscriber.wait_for(1).await.remove(0);
    let (payload, id) = (
        message.json(),
        app.database.image("image").await["id"].clone(),
    );
    assert_eq!(
        payload["object"],
        json!({"id": id, "status": "uploaded", "filename": "***", "metadata": {"album": 7}})
    );
    assert_eq!(
        payload["changes"],
        json!({"status": {"old": "pending", "new": "uploaded"}, "filename": {"old": "***", "new": "***"}})
    );
    wait_for_statuses(&app.database, &["delivered"]).await;
    let stored = app.database.deliveries().await[0]["payload"].clone();
    assert_eq!(
        stored,
        String::from_utf8(message.body.to_vec()).expect("text"),
        "the stored payload is the sent payload"
    );
}

async fn when_condition_filters_events(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({"when": ".event != \"updated\" or .object.status == \"uploaded\""}),
    )
    .await;
    app.database.register("image").await;

    let draft =
        json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string();
    assert_eq!(app.deliver(draft).await.outcome(), (200, "applied"));
    assert_eq!(
        app.deliver(uploaded("image")).await.outcome(),
        (200, "applied")
    );

    wait_for_statuses(&app.database, &["filtered", "delivered"]).await;
    assert_eq!(subscriber.received().len(), 1);
    assert_eq!(
        app.database.attempts().await.len(),
        1,
        "a filtered event has no attempt"
    );
}

async fn transform_sees_only_allowed_fields(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({
            "exclude_fields": {"*": ["filename"]},
            "transform": "{type: \"image_\\(.object.status)\", id: .object.cloudflare_id, \
                          name: .object.filename, was: .changes.filename.old}",
        }),
    )
    .await;

    upload(&app, "image").await;

    let message = subscriber.wait_for(1).await.remove(0);
    assert_eq!(
        message.json(),
        json!({"type": "image_uploaded", "id": "image", "name": null, "was": null})
    );
    assert!(
        message.event_id().starts_with("evt_"),
        "the header contains the event id"
    );
}

async fn failing_transform_fails_attempt(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({"transform": ".object.filename / 2", "retry": {"max_retries": 0}}),
    )
    .await;

    upload(&app, "image").await;

    wait_for_statuses(&app.database, &["gave_up"]).await;
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "its `transform` ended with an error"
    );
    assert_eq!(subscriber.received().len(), 0);
}

async fn kill_during_attempt_causes_redelivery(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::NoResponse);
    let folder = TempDir::new().expect("a folder");
    let endpoints = json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]}]).to_string();
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
        ("APP__RELAY__ENDPOINTS", &endpoints),
    ];
    let mut service = Service::start(folder.path(), &variables);
    database.register("image").await;
    let request = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET)
        .body(uploaded("image"));
    assert_eq!(answer(request).await.outcome(), (200, "applied"));
    subscriber.wait_for(1).await;

    service.signal("-KILL");
    service.wait();
    subscriber.answer(Answer::Status(200));
    let restarted = Service::start(folder.path(), &variables);
    wait_for_pass(&restarted.ops_url("/metrics"), CLAIMS_METRIC).await;
    assert_eq!(statuses(&database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "the lease has not expired");
    // Expires the lease.
    database
        .execute("UPDATE relay_deliveries SET due_at = created_at", &[])
        .await;

    let received = subscriber.wait_for(2).await;
    wait_for_statuses(&database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
    assert_eq!(received[0].body, received[1].body);
}

async fn shutdown_finishes_attempts_and_releases_leases(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::NoResponse);
    let app = start(
        database,
        &subscriber,
        json!({"max_in_flight": 1, "timeout_secs": 1}),
    )
    .await;
    upload(&app, "first").await;
    subscriber.wait_for(1).await;
    upload(&app, "second").await;

    let (exit_reason, database) = app.stop().await;

    assert_eq!(exit_reason, ExitReason::Clean);
    assert_eq!(statuses(&database).await, ["retrying", "pending"]);
    assert_eq!(subscriber.received().len(), 1);
}

async fn delivers_after_configured_pause_ends(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"paused": true})).await;
    upload(&app, "image").await;
    let (_, database) = app.stop().await;
    assert_eq!(statuses(&database).await, ["pending"]);
    assert_eq!(
        database
            .texts("SELECT paused_because FROM relay_endpoints")
            .await,
        ["its settings pause it"]
    );

    let app = start(database, &subscriber, json!({})).await;

    subscriber.wait_for(1).await;
    wait_for_statuses(&app.database, &["delivered"]).await;
}
