//! Other apps are told what changed: signed, at least once, tried again, and logged.

use std::time::Duration;

use cloudflare_images_webhook::shutdown::ExitReason;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::on_both_databases;
use crate::sharing_commits::{ONE_WRITER, PATIENT, deliver_together};
use crate::support::app::{App, CLAIMS, answer, client, wait_for_pass};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::subscriber::{Answer, RELAY_SECRET, Received, Subscriber};
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";
const LOGS: &str = "cloudflare_images.ImageUploadLog";

/// A service that tells one subscriber of images, with these settings beside.
async fn start(database: Database, subscriber: &Subscriber, settings: Value) -> App {
    let mut endpoint = json!({
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
        "retry": {"max_retries": 2, "delay_secs": 60},
    });
    let fields = endpoint.as_object_mut().expect("an object");
    fields.extend(settings.as_object().expect("an object").clone());
    start_telling(database, &json!([endpoint])).await
}

async fn start_telling(database: Database, endpoints: &Value) -> App {
    App::start_with(
        database,
        &[("APP__RELAY__ENDPOINTS", &endpoints.to_string())],
    )
    .await
}

/// Cloudflare's word that an image is there.
pub(crate) fn uploaded(id: &str) -> String {
    json!({"id": id, "uploaded": "2024-01-01T12:00:00Z", "filename": "cat.jpg"}).to_string()
}

/// Registers an image, and has Cloudflare tell that it is there.
pub(crate) async fn upload(app: &App, id: &str) {
    app.database.register(id).await;
    assert_eq!(app.deliver(uploaded(id)).await.outcome(), (200, "applied"));
}

/// The states of all deliveries, in order.
pub(crate) async fn states(database: &Database) -> Vec<String> {
    database
        .texts("SELECT status FROM relay_deliveries ORDER BY id")
        .await
}

async fn wait_until_states_are(database: &Database, expected: &[&str]) {
    wait::until_async("the deliveries are settled", async || {
        states(database).await == expected
    })
    .await;
}

on_both_databases!(
    an_app_is_told_what_changed_and_how_it_is_now,
    every_delivery_and_every_try_is_logged,
    what_changes_nothing_is_told_to_nobody,
    without_an_endpoint_nothing_is_written,
    an_entry_of_the_audit_trail_is_an_event_too,
    each_entry_of_the_audit_trail_is_told_as_its_row_is,
    an_entry_is_told_as_its_row_is_whatever_triggers_the_trail_has,
    an_image_that_the_service_inserts_is_told_as_created,
    only_the_events_that_an_endpoint_wants_are_for_it,
    several_endpoints_get_the_same_event_under_the_same_id,
    a_delivery_that_fails_is_tried_again_later_under_the_same_id,
    after_the_last_try_it_is_given_up_and_can_be_replayed,
    an_endpoint_that_says_it_is_gone_is_paused_and_loses_nothing,
    an_endpoint_is_left_alone_for_as_long_as_it_asks,
    a_redirect_is_a_failure_and_is_not_followed,
    an_answer_that_never_ends_or_breaks_off_is_a_failure,
    a_long_answer_is_not_read_to_its_end,
    an_endpoint_that_hangs_delays_no_other,
    no_more_calls_begin_in_a_second_than_an_endpoint_wants,
    an_endpoint_that_fails_again_and_again_is_left_in_peace_and_then_told_everything,
    what_was_leased_for_an_endpoint_that_begins_to_fail_is_given_back_untried,
    what_an_endpoint_does_not_want_takes_no_rest_while_it_is_left_in_peace,
    in_order_means_that_a_message_waits_for_the_one_before_it,
    what_was_under_way_when_the_service_was_killed_is_delivered_once_more,
    an_endpoint_gets_the_fields_that_are_for_it,
    an_endpoint_gets_only_what_its_condition_holds_for,
    a_transformation_makes_another_message_from_what_the_endpoint_may_see,
    a_program_that_fails_on_a_message_is_a_try_that_failed,
    kill_9_between_the_sending_and_the_settling_gives_one_more_delivery_and_never_none,
    a_service_that_stops_finishes_its_calls_and_gives_back_what_it_has_not_begun,
    an_endpoint_that_its_settings_pause_is_told_when_they_do_no_more,
);

async fn an_app_is_told_what_changed_and_how_it_is_now(database: Database) {
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
    let (told, row) = (message.json(), app.database.image("image").await);
    assert_eq!(told["id"], message.event_id());
    assert_eq!(
        (&told["event"], &told["timestamp"], &told["user"]),
        (
            &json!("updated"),
            &json!("2024-01-01T12:00:00.000000Z"),
            &Value::Null
        )
    );
    assert_eq!(
        told["model"],
        json!({"app": "cloudflare_images", "name": "CloudflareImage", "label": IMAGES})
    );
    assert_eq!(
        told["changes"],
        json!({
            "status": {"old": "pending", "new": "uploaded"},
            "status_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "uploaded_at": {"old": null, "new": "2024-01-01T12:00:00.000000Z"},
            "filename": {"old": "", "new": "cat.jpg"},
        })
    );
    for (column, value) in told["object"].as_object().expect("an object") {
        assert_eq!(value, &row[column], "{column}");
    }
    let missing: Vec<&String> = row
        .as_object()
        .expect("an object")
        .keys()
        .filter(|column| told["object"].get(column).is_none())
        .collect();
    assert_eq!(
        missing,
        ["details_at", "upload_url"],
        "one is ours, and the other lets who has it upload"
    );
}

async fn every_delivery_and_every_try_is_logged(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["delivered"]).await;
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
        "the bytes that were signed and sent"
    );
}

async fn what_changes_nothing_is_told_to_nobody(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;

    let again = app.deliver(uploaded("image")).await;
    let stale = app
        .deliver(
            json!({"id": "image", "draft": true, "timestamp": "2024-01-01T11:00:00Z"}).to_string(),
        )
        .await;

    assert_eq!(
        (again.outcome(), stale.outcome()),
        ((200, "duplicate"), (200, "stale"))
    );
    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        1
    );
}

async fn without_an_endpoint_nothing_is_written(database: Database) {
    let app = App::start(database).await;

    upload(&app, "image").await;

    assert_eq!(
        app.database
            .count("SELECT count(*) FROM relay_events")
            .await,
        0
    );
}

async fn an_entry_of_the_audit_trail_is_an_event_too(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"include_models": [LOGS]})).await;

    upload(&app, "image").await;
    let _again = app.deliver(uploaded("image")).await;

    let told: Vec<Value> = subscriber
        .wait_for(2)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut types: Vec<&Value> = told
        .iter()
        .map(|told| &told["object"]["event_type"])
        .collect();
    types.sort_by_key(ToString::to_string);
    assert_eq!(types, ["webhook_duplicate", "webhook_received"]);
    for told in &told {
        assert_eq!(
            (&told["event"], &told["model"]["label"], &told["changes"]),
            (&json!("created"), &json!(LOGS), &Value::Null)
        );
        assert_eq!(told["object"]["data"]["payload"]["id"], "image");
        assert_eq!(
            told["object"]["image_id"],
            app.database.image("image").await["id"]
        );
    }
}

async fn each_entry_of_the_audit_trail_is_told_as_its_row_is(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints =
        json!([{"name": "app", "url": subscriber.url(), "secret": RELAY_SECRET}]).to_string();
    let app = App::start_with(
        database,
        &[("APP__RELAY__ENDPOINTS", &endpoints), ONE_WRITER, PATIENT],
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
    // Of the images there are three more: two of these, and the one that was held.
    let told: Vec<Value> = subscriber
        .wait_for(8)
        .await
        .iter()
        .map(Received::json)
        .collect();
    let mut told: Vec<&Value> = told
        .iter()
        .filter(|told| told["model"]["label"] == LOGS)
        .collect();
    told.sort_by_key(|told| told["id"].to_string());
    let rows = app.database.logs().await;
    assert_eq!((told.len(), rows.len()), (5, 5));
    for (told, row) in told.iter().zip(&rows) {
        let mut object = told["object"].clone();
        let cloudflare_id = object
            .as_object_mut()
            .expect("an object")
            .remove("cloudflare_id")
            .expect("it is told");
        assert_eq!(&object, row);
        let is_about = row["data"]["payload"]["id"]
            .as_str()
            .or(row["data"]["payload"]["data"]["image"]["id"].as_str());
        assert_eq!(cloudflare_id.as_str(), is_about);
    }
}

async fn an_entry_is_told_as_its_row_is_whatever_triggers_the_trail_has(database: Database) {
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
    let _again = app.deliver(uploaded("image")).await;

    for told in subscriber.wait_for(2).await.iter().map(Received::json) {
        let rows = app.database.logs().await;
        let row = rows
            .iter()
            .find(|row| row["id"] == told["object"]["id"])
            .expect("it is a row's");
        assert_eq!(row["message"], told["object"]["message"]);
    }
}

async fn an_image_that_the_service_inserts_is_told_as_created(database: Database) {
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

    let told = subscriber.wait_for(1).await[0].json();
    assert_eq!(
        (&told["event"], &told["changes"], &told["object"]["status"]),
        (&json!("created"), &Value::Null, &json!("uploaded"))
    );
    wait_until_states_are(&app.database, &["delivered"]).await;
}

async fn only_the_events_that_an_endpoint_wants_are_for_it(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let app = start_telling(database, &json!([
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

async fn several_endpoints_get_the_same_event_under_the_same_id(database: Database) {
    let (first, second) = (Subscriber::start().await, Subscriber::start().await);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES]
        })
    };
    let app = start_telling(
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

async fn a_delivery_that_fails_is_tried_again_later_under_the_same_id(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer_first([Answer::Status(500), Answer::Status(503)]);
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_until_states_are(&app.database, &["retrying"]).await;

    app.clock.advance(Duration::from_secs(75));
    subscriber.wait_for(2).await;
    wait::until_async("the second try is settled", async || {
        app.database.attempts().await.len() == 2
    })
    .await;
    app.clock.advance(Duration::from_secs(150));

    let received = subscriber.wait_for(3).await;
    wait_until_states_are(&app.database, &["delivered"]).await;
    assert!(
        received
            .iter()
            .all(|one| one.event_id() == received[0].event_id() && one.body == received[0].body)
    );
    let attempts = app.database.attempts().await;
    let told: Vec<(&Value, &Value)> = attempts
        .iter()
        .map(|attempt| (&attempt["number"], &attempt["status_code"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!(1), &json!(500)),
            (&json!(2), &json!(503)),
            (&json!(3), &json!(200))
        ]
    );
    assert_eq!(attempts[0]["error"], "answered 500 Internal Server Error");
}

async fn after_the_last_try_it_is_given_up_and_can_be_replayed(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;
    upload(&app, "image").await;
    wait_until_states_are(&app.database, &["failed"]).await;

    subscriber.answer(Answer::Status(204));
    app.database
        .execute(
            "UPDATE relay_deliveries SET status = 'pending', \
             due_at = created_at, completed_at = NULL",
            &[],
        )
        .await;

    let received = subscriber.wait_for(2).await;
    wait_until_states_are(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn an_endpoint_that_says_it_is_gone_is_paused_and_loses_nothing(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(410));
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "first").await;
    wait::until_async("it is paused", async || {
        app.database
            .count("SELECT count(*) FROM relay_endpoints WHERE paused_at IS NOT NULL")
            .await
            == 1
    })
    .await;
    wait_until_states_are(&app.database, &["retrying"]).await;

    upload(&app, "second").await;
    app.clock.advance(Duration::from_hours(1));
    app.wait_for_claim().await;
    assert_eq!(states(&app.database).await, ["retrying", "pending"]);
    assert_eq!(
        subscriber.received().len(),
        1,
        "nothing is sent to who is paused"
    );
    subscriber.answer(Answer::Status(200));
    app.database
        .execute("UPDATE relay_endpoints SET paused_at = NULL", &[])
        .await;

    subscriber.wait_for(3).await;
    wait_until_states_are(&app.database, &["delivered", "delivered"]).await;
}

async fn an_endpoint_is_left_alone_for_as_long_as_it_asks(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::With(429, "retry-after", "1000".to_owned()));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["retrying"]).await;
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

async fn a_redirect_is_a_failure_and_is_not_followed(database: Database) {
    let (subscriber, elsewhere) = (Subscriber::start().await, Subscriber::start().await);
    subscriber.answer(Answer::With(307, "location", elsewhere.url()));
    let app = start(database, &subscriber, json!({"retry": {"max_retries": 0}})).await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["failed"]).await;
    assert_eq!(elsewhere.received().len(), 0);
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "answered 307 Temporary Redirect, and redirects are not followed"
    );
}

async fn an_answer_that_never_ends_or_breaks_off_is_a_failure(database: Database) {
    let (trickling, broken, silent) = (
        Subscriber::start().await,
        Subscriber::start().await,
        Subscriber::start().await,
    );
    trickling.answer(Answer::Trickle);
    broken.answer(Answer::BrokenOff);
    silent.answer(Answer::Silence);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "timeout_secs": 1, "retry": {"max_retries": 0},
        })
    };
    let refusing = json!({"name": "4", "url": "http://127.0.0.1:1/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let unknown = json!({"name": "5", "url": "http://no-such-host.invalid/", "include_models": [IMAGES], "retry": {"max_retries": 0}});
    let app = start_telling(
        database,
        &json!([
            endpoint("1", &trickling),
            endpoint("2", &broken),
            endpoint("3", &silent),
            refusing,
            unknown
        ]),
    )
    .await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["failed"; 5]).await;
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

async fn a_long_answer_is_not_read_to_its_end(database: Database) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Long(10_000_000));
    let app = start(database, &subscriber, json!({})).await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["delivered"]).await;
}

async fn an_endpoint_that_hangs_delays_no_other(database: Database) {
    let (hanging, good) = (Subscriber::start().await, Subscriber::start().await);
    hanging.answer(Answer::Silence);
    let endpoint = |name: &str, subscriber: &Subscriber| {
        json!({
            "name": name, "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
            "max_in_flight": 1
        })
    };
    let app = start_telling(
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
        "one at a time, as its settings say"
    );
}

async fn no_more_calls_begin_in_a_second_than_an_endpoint_wants(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"rate_limit_per_second": 1})).await;
    let began = Instant::now();
    for id in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        upload(&app, id).await;
    }
    subscriber.wait_for(3).await;

    // However slow the machine is: the first at once, and one for each second that has passed.
    let told = subscriber.received().len() as u64;
    let allowed = 1 + began.elapsed().as_secs();
    assert!(told <= allowed, "{told} calls, {allowed} allowed");
    assert_eq!(
        app.database
            .attempts()
            .await
            .iter()
            .filter(|attempt| attempt["error"] != "")
            .count(),
        0,
        "those that wait have not failed"
    );
}

async fn an_endpoint_that_fails_again_and_again_is_left_in_peace_and_then_told_everything(
    database: Database,
) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Status(500));
    let app = start(database, &subscriber, json!({"max_in_flight": 1})).await;
    let ids: Vec<String> = (0..30).map(|number| format!("image-{number}")).collect();
    let began = Instant::now();

    for id in &ids {
        upload(&app, id).await;
    }
    subscriber.wait_for(6).await;

    // However slow the machine is: five at once, and one after each rest of 1, 2, 4, 8, 16 and then 30 s that fits.
    let tried = subscriber.received().len();
    let ends_of_rests = [1, 3, 7, 15, 31, 61, 91, 121];
    let seconds = began.elapsed().as_secs();
    let rests = ends_of_rests.iter().filter(|end| **end <= seconds).count();
    assert!(tried <= 5 + rests, "{tried} calls in {seconds} s");
    assert!(tried < 10, "{tried} calls");
    subscriber.answer(Answer::Status(200));
    // A failure that is settled after the clock has moved on would be due too late.
    wait::until_async("the failures are settled", async || {
        app.database.attempts().await.len() >= tried
    })
    .await;
    app.clock.advance(Duration::from_secs(75));
    wait_until_states_are(&app.database, &vec!["delivered"; ids.len()]).await;
}

async fn what_was_leased_for_an_endpoint_that_begins_to_fail_is_given_back_untried(
    database: Database,
) {
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

    // All twenty are leased at once, and ten wait for their turns.
    let app = start(database, &subscriber, json!({"max_in_flight": 10})).await;

    wait::until_async("some are given back", async || {
        let tried = app
            .database
            .count("SELECT count(*) FROM relay_attempts")
            .await;
        tried >= 5 && states(&app.database).await.contains(&"pending".to_owned())
    })
    .await;
    // Another service knows of no failures, and does not rest.
    let (_, database) = app.stop().await;
    subscriber.answer(Answer::Status(200));
    let app = start(database, &subscriber, json!({})).await;
    app.clock.advance(Duration::from_secs(75));
    wait_until_states_are(&app.database, &["delivered"; 20]).await;
}

async fn what_an_endpoint_does_not_want_takes_no_rest_while_it_is_left_in_peace(
    database: Database,
) {
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

    // One rest, and not one of a second for each.
    wait::until_async("all are passed over", async || {
        app.database
            .count("SELECT count(*) FROM relay_deliveries WHERE status = 'filtered'")
            .await
            == 200
    })
    .await;
}

async fn in_order_means_that_a_message_waits_for_the_one_before_it(database: Database) {
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
    wait_until_states_are(&app.database, &["retrying", "pending", "delivered"]).await;
    app.clock.advance(Duration::from_secs(75));

    let received = subscriber.wait_for(4).await;
    let told: Vec<(String, String)> = received
        .iter()
        .map(|one| {
            let object = &one.json()["object"];
            (
                object["cloudflare_id"].to_string(),
                object["status"].to_string(),
            )
        })
        .collect();
    let told: Vec<(&str, &str)> = told
        .iter()
        .map(|(id, status)| (id.trim_matches('"'), status.trim_matches('"')))
        .collect();
    assert_eq!(
        told,
        [
            ("image", "draft"),
            ("another", "uploaded"),
            ("image", "draft"),
            ("image", "uploaded")
        ]
    );
}

async fn what_was_under_way_when_the_service_was_killed_is_delivered_once_more(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({})).await;
    upload(&app, "image").await;
    wait_until_states_are(&app.database, &["delivered"]).await;
    // As a service leaves it that was killed between the answer and the settling of it.
    let lease_ends = if app.database.is_postgres() {
        "2024-01-01 12:01:30+00"
    } else {
        "2024-01-01T12:01:30.000000Z"
    };
    let sql = format!(
        "UPDATE relay_deliveries SET status = 'leased', lease = 'of the dead', due_at = '{lease_ends}', completed_at = NULL"
    );
    app.database.execute(&sql, &[]).await;

    app.wait_for_claim().await;
    assert_eq!(states(&app.database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "its lease still runs");
    app.clock.advance(Duration::from_secs(91));

    let received = subscriber.wait_for(2).await;
    wait_until_states_are(&app.database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
}

async fn an_endpoint_gets_the_fields_that_are_for_it(database: Database) {
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
    let (told, id) = (
        message.json(),
        app.database.image("image").await["id"].clone(),
    );
    assert_eq!(
        told["object"],
        json!({"id": id, "status": "uploaded", "filename": "***", "metadata": {"album": 7}})
    );
    assert_eq!(
        told["changes"],
        json!({"status": {"old": "pending", "new": "uploaded"}, "filename": {"old": "***", "new": "***"}})
    );
    wait_until_states_are(&app.database, &["delivered"]).await;
    let kept = app.database.deliveries().await[0]["payload"].clone();
    assert_eq!(
        kept,
        String::from_utf8(message.body.to_vec()).expect("text"),
        "what was sent, as it was sent"
    );
}

async fn an_endpoint_gets_only_what_its_condition_holds_for(database: Database) {
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

    wait_until_states_are(&app.database, &["filtered", "delivered"]).await;
    assert_eq!(subscriber.received().len(), 1);
    assert_eq!(
        app.database.attempts().await.len(),
        1,
        "what is filtered is not tried"
    );
}

async fn a_transformation_makes_another_message_from_what_the_endpoint_may_see(database: Database) {
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
        "the id is in the header all the same"
    );
}

async fn a_program_that_fails_on_a_message_is_a_try_that_failed(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(
        database,
        &subscriber,
        json!({"transform": ".object.filename / 2", "retry": {"max_retries": 0}}),
    )
    .await;

    upload(&app, "image").await;

    wait_until_states_are(&app.database, &["failed"]).await;
    assert_eq!(
        app.database.deliveries().await[0]["error"],
        "its `transform` ended with an error"
    );
    assert_eq!(subscriber.received().len(), 0);
}

async fn kill_9_between_the_sending_and_the_settling_gives_one_more_delivery_and_never_none(
    database: Database,
) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Silence);
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
    let another = Service::start(folder.path(), &variables);
    wait_for_pass(&another.ops_url("/metrics"), CLAIMS).await;
    assert_eq!(states(&database).await, ["leased"]);
    assert_eq!(subscriber.received().len(), 1, "its lease still runs");
    // As the time does.
    database
        .execute("UPDATE relay_deliveries SET due_at = created_at", &[])
        .await;

    let received = subscriber.wait_for(2).await;
    wait_until_states_are(&database, &["delivered"]).await;
    assert_eq!(received[0].event_id(), received[1].event_id());
    assert_eq!(received[0].body, received[1].body);
}

async fn a_service_that_stops_finishes_its_calls_and_gives_back_what_it_has_not_begun(
    database: Database,
) {
    let subscriber = Subscriber::start().await;
    subscriber.answer(Answer::Silence);
    let app = start(
        database,
        &subscriber,
        json!({"max_in_flight": 1, "timeout_secs": 1}),
    )
    .await;
    upload(&app, "first").await;
    subscriber.wait_for(1).await;
    upload(&app, "second").await;

    let (ending, database) = app.stop().await;

    assert_eq!(ending, ExitReason::Clean);
    assert_eq!(states(&database).await, ["retrying", "pending"]);
    assert_eq!(subscriber.received().len(), 1);
}

async fn an_endpoint_that_its_settings_pause_is_told_when_they_do_no_more(database: Database) {
    let subscriber = Subscriber::start().await;
    let app = start(database, &subscriber, json!({"paused": true})).await;
    upload(&app, "image").await;
    let (_, database) = app.stop().await;
    assert_eq!(states(&database).await, ["pending"]);
    assert_eq!(
        database
            .texts("SELECT pause_reason FROM relay_endpoints")
            .await,
        ["its settings pause it"]
    );

    let app = start(database, &subscriber, json!({})).await;

    subscriber.wait_for(1).await;
    wait_until_states_are(&app.database, &["delivered"]).await;
}
