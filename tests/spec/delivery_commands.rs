//! The operator's commands for endpoints and deliveries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use reqwest::header::HeaderName;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::relay_delivery::statuses;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::subscriber::{RELAY_SECRET, Subscriber, SubscriberResponse};
use crate::support::suppression::Suppression;
use crate::support::wait;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

/// A service with one endpoint, `app`, that is tried once per delivery.
struct RelayingService {
    app: App,
    subscriber: Subscriber,
    endpoints: String,
    folder: TempDir,
}

impl RelayingService {
    async fn start(database: Database) -> Self {
        let subscriber = Subscriber::start().await;
        let endpoints = json!([{
            "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES], "retry": {"max_retries": 0},
            "headers": {"Authorization": "Bearer SECRET"},
        }]).to_string();
        let app = App::start_with(database, &[("APP__RELAY__ENDPOINTS", &endpoints)]).await;
        Self {
            app,
            subscriber,
            endpoints,
            folder: TempDir::new().expect("a folder"),
        }
    }

    /// Uploads an image and waits until its delivery is delivered or failed.
    async fn upload(&self, id: &str) {
        self.app.database.register(id).await;
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        assert_eq!(
            self.app.post_webhook(body).await.outcome(),
            (200, "applied")
        );
        self.wait_until_none_due().await;
    }

    async fn wait_until_none_due(&self) {
        wait::until_async("no delivery is due", async || {
            self.app
                .database
                .count("SELECT count(*) FROM relay_deliveries WHERE due_at IS NOT NULL")
                .await
                == 0
        })
        .await;
    }

    /// Runs a command. Returns its exit code and its output.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let variables = [
            ("DATABASE_URL", self.app.database.url.as_str()),
            ("APP__RELAY__ENDPOINTS", self.endpoints.as_str()),
        ];
        let output = run(self.folder.path(), arguments, &variables);
        (output.status.code(), stdout(&output) + &stderr(&output))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, printed) = self.run(arguments);
        assert_eq!(code, Some(0), "{printed}");
        serde_json::from_str(&printed).expect("JSON")
    }
}

on_both_databases!(
    preview_matches_sent_request,
    lists_deliveries_by_endpoint_status_and_time,
    shows_delivery_with_attempts_and_payload,
    replays_failed_deliveries_with_same_ids,
    pauses_and_resumes_endpoint,
    prunes_only_completed_deliveries,
    moves_deliveries_of_removed_endpoint,
    deletes_deliveries_of_removed_endpoint,
    commands_report_suppressed_deliveries,
);

async fn preview_matches_sent_request(database: Database) {
    let relay = RelayingService::start(database).await;
    relay.upload("image").await;
    let sent = relay.subscriber.received().remove(0);
    fs::write(relay.folder.path().join("event.json"), &sent.body).expect("a file");

    let (code, printed) = relay.run(&["endpoints", "preview", "app", "--event", "event.json"]);

    assert_eq!(code, Some(0), "{printed}");
    let (head, body) = printed.split_once("\n\n").expect("a head and a body");
    assert_eq!(
        body,
        format!("{}\n", str::from_utf8(&sent.body).expect("text"))
    );
    let lines = head
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").expect("a header"));
    let shown: BTreeMap<&str, &str> = lines.clone().collect();
    assert_eq!(shown.len(), lines.count(), "a header occurs twice: {head}");
    let names: Vec<&str> = sent.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(
        shown.keys().copied().collect::<BTreeSet<_>>(),
        names.into_iter().collect()
    );
    for (name, value) in shown {
        let changes_per_attempt = name.ends_with("-timestamp") || name.ends_with("-signature");
        let is_secret = name == "authorization";
        assert!(
            value == sent.header(name) || changes_per_attempt || is_secret,
            "{name}: {value}"
        );
    }
}

async fn lists_deliveries_by_endpoint_status_and_time(database: Database) {
    let relay = RelayingService::start(database).await;
    relay.upload("first").await;
    relay
        .subscriber
        .respond_with(SubscriberResponse::Status(500));
    relay.app.clock.advance(Duration::from_mins(1));
    relay.upload("second").await;

    let images = |arguments: &[&str]| -> Vec<String> {
        let listed = relay.json(&[&["deliveries", "list", "--json"], arguments].concat());
        listed
            .as_array()
            .expect("an array")
            .iter()
            .map(|one| one["image"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(images(&[]), ["second", "first"]);
    assert_eq!(images(&["--status", "failed"]), ["second"]);
    assert_eq!(images(&["--endpoint", "app", "--limit", "1"]), ["second"]);
    assert_eq!(images(&["--endpoint", "nobody"]), Vec::<String>::new());
    assert_eq!(images(&["--since", "2024-01-01T12:00:30Z"]), ["second"]);
    let (_, table) = relay.run(&["deliveries", "list"]);
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("ID  CREATED"), "{table}");
    assert!(
        lines[1].contains("failed") && lines[1].ends_with("answered 500 Internal Server Error"),
        "{table}"
    );
    assert!(lines[2].contains("delivered"), "{table}");
}

async fn shows_delivery_with_attempts_and_payload(database: Database) {
    let relay = RelayingService::start(database).await;
    relay.upload("image").await;

    let shown = relay.json(&["deliveries", "show", "1", "--json"]);

    let message = relay.subscriber.received().remove(0);
    assert_eq!(shown["payload"], message.json());
    assert_eq!(
        (&shown["event_id"], &shown["status"], &shown["status_code"]),
        (&json!(message.event_id()), &json!("delivered"), &json!(200))
    );
    assert_eq!(
        (
            &shown["attempt_history"][0]["number"],
            &shown["attempt_history"][0]["status_code"]
        ),
        (&json!(1), &json!(200))
    );
    let (code, text) = relay.run(&["deliveries", "show", "1"]);
    assert!(
        code == Some(0) && text.contains("\n ATTEMPT  STARTED"),
        "{text}"
    );
    let (code, printed) = relay.run(&["deliveries", "show", "7"]);
    assert_eq!(
        (code, printed.as_str()),
        (
            Some(1),
            "error: there is no delivery 7. `deliveries list` prints the newest ones.\n"
        )
    );
}

async fn replays_failed_deliveries_with_same_ids(database: Database) {
    let relay = RelayingService::start(database).await;
    relay
        .subscriber
        .respond_with(SubscriberResponse::Status(500));
    relay.upload("first").await;
    relay.upload("second").await;
    relay
        .subscriber
        .respond_with(SubscriberResponse::Status(200));
    // The command uses the real clock, so the deliveries are due in the future of the service's
    // clock.
    relay.app.clock.advance(Duration::from_hours(24 * 365 * 30));

    assert_eq!(
        relay.run(&[
            "deliveries",
            "replay",
            "--endpoint",
            "app",
            "--status",
            "failed"
        ]),
        (Some(0), "2 deliveries are pending again\n".to_owned())
    );

    let received = relay.subscriber.wait_for(4).await;
    relay.wait_until_none_due().await;
    let mut ids: Vec<String> = received
        .iter()
        .map(crate::support::subscriber::Received::event_id)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2, "a replay does not change the event ids");
    assert_eq!(
        relay.run(&["deliveries", "replay", "--endpoint", "app"]).0,
        Some(1),
        "an endpoint alone must not select deliveries"
    );
    assert_eq!(
        relay.run(&["deliveries", "replay", "1"]),
        (Some(0), "1 delivery is pending again\n".to_owned())
    );
    relay.subscriber.wait_for(5).await;
    relay.wait_until_none_due().await;
    let attempts = relay
        .app
        .database
        .count("SELECT count(*) FROM relay_attempts WHERE delivery_id = 1")
        .await;
    assert_eq!(attempts, 3, "every attempt is stored");
}

async fn pauses_and_resumes_endpoint(database: Database) {
    let relay = RelayingService::start(database).await;
    assert_eq!(
        relay.run(&["endpoints", "pause", "app"]),
        (Some(0), "app is paused\n".to_owned())
    );
    relay.app.database.register("image").await;
    assert_eq!(
        relay
            .app
            .post_webhook(r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );

    let listed = relay.json(&["endpoints", "list", "--json"]);
    assert_eq!(
        (
            &listed[0]["name"],
            &listed[0]["state"],
            &listed[0]["waiting"],
            &listed[0]["pause_reason"]
        ),
        (
            &json!("app"),
            &json!("paused"),
            &json!(1),
            &json!("paused by an operator")
        )
    );
    assert_eq!(
        relay
            .json(&["deliveries", "list", "--json", "--status", "paused"])
            .as_array()
            .expect("an array")
            .len(),
        1
    );
    relay.app.wait_for_claim().await;
    assert_eq!(statuses(&relay.app.database).await, ["pending"]);
    assert_eq!(relay.subscriber.received().len(), 0);
    assert_eq!(
        relay.run(&["endpoints", "resume", "app"]),
        (Some(0), "app is resumed\n".to_owned())
    );

    relay.subscriber.wait_for(1).await;
    relay.wait_until_none_due().await;
    assert_eq!(
        relay.run(&["endpoints", "resume", "app"]),
        (Some(0), "app was not paused\n".to_owned())
    );
    relay.run(&["endpoints", "pause", "app"]);
    relay
        .app
        .database
        .execute(
            "UPDATE relay_endpoints SET pause_reason = 'paused by the configuration'",
            &[],
        )
        .await;
    assert_eq!(
        relay.run(&["endpoints", "resume", "app"]),
        (
            Some(1),
            "error: the configuration pauses app. Set paused = false and restart the service.\n"
                .to_owned()
        )
    );
    assert_eq!(
        relay.run(&["endpoints", "pause", "ap"]),
        (
            Some(1),
            "error: there is no endpoint \"ap\" in the configuration. `endpoints list` prints all endpoints.\n"
                .to_owned()
        )
    );
}

async fn prunes_only_completed_deliveries(database: Database) {
    let relay = RelayingService::start(database).await;
    relay.upload("delivered").await;
    relay.run(&["endpoints", "pause", "app"]);
    relay.app.database.register("waits").await;
    assert_eq!(
        relay
            .app
            .post_webhook(r#"{"id":"waits","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );
    let (_, database) = relay.app.stop().await;

    // The command uses the real clock, and the service's clock is in 2024.
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("APP__RETENTION__LOGS_DAYS", "0"),
        ("APP__RETENTION__REJECTIONS_DAYS", "0"),
    ];
    let printed = stdout(&run(
        relay.folder.path(),
        &["retention", "prune"],
        &variables,
    ));

    assert!(
        printed.ends_with("relay_deliveries: 1 rows were deleted\n"),
        "{printed}"
    );
    assert_eq!(
        database.texts("SELECT status FROM relay_deliveries").await,
        ["pending"]
    );
    assert_eq!(
        database.texts("SELECT image FROM relay_events").await,
        ["waits"]
    );
    assert_eq!(database.attempts().await.len(), 0);
}

/// Leaves two deliveries to `old`, which then leaves the configuration. The new configuration has `app`.
async fn remove_endpoint(database: Database) -> RelayingService {
    let old = json!([{"name": "old", "url": "http://127.0.0.1:1/", "include_models": [IMAGES], "paused": true}]);
    let variables = [
        ("APP__RELAY__ENDPOINTS", &*old.to_string()),
        ("APP__WEBHOOK__UNKNOWN_IMAGES", "create"),
    ];
    let app = App::start_with(database, &variables).await;
    for id in ["1", "2"] {
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        assert_eq!(app.post_webhook(body).await.status, 200);
    }
    let (_, database) = app.stop().await;
    RelayingService::start(database).await
}

async fn moves_deliveries_of_removed_endpoint(database: Database) {
    let relay = remove_endpoint(database).await;
    // The command uses the real clock, so moved deliveries are due in the future of the service's clock.
    relay.app.clock.advance(Duration::from_hours(24 * 365 * 30));
    let listed = relay.json(&["endpoints", "list", "--json"]);
    assert_eq!(
        (
            &listed[1]["name"],
            &listed[1]["state"],
            &listed[1]["waiting"]
        ),
        (&json!("old"), &json!("not configured"), &json!(2))
    );
    let of_old = relay.json(&["deliveries", "list", "--json", "--endpoint", "old"]);
    assert_eq!(of_old.as_array().expect("an array").len(), 2);
    assert_eq!(
        relay
            .run(&["deliveries", "move", "--from", "app", "--to", "old"])
            .0,
        Some(1),
        "the target must be in the configuration"
    );

    let (code, printed) = relay.run(&["deliveries", "move", "--from", "old", "--to", "app"]);

    assert_eq!((code, &*printed), (Some(0), "2 deliveries are moved\n"));
    relay.subscriber.wait_for(2).await;
    relay.wait_until_none_due().await;
}

async fn deletes_deliveries_of_removed_endpoint(database: Database) {
    let relay = remove_endpoint(database).await;
    let delete = |endpoint| relay.run(&["deliveries", "delete", "--endpoint", endpoint]);

    let (code, printed) = delete("app");
    let deleted = delete("old");

    assert_eq!(
        (code, &*printed),
        (
            Some(1),
            "error: the endpoint \"app\" is in the configuration. Use --yes to change its deliveries.\n"
        )
    );
    assert_eq!(deleted, (Some(0), "2 deliveries are deleted\n".to_owned()));
    let yes = relay.run(&["deliveries", "delete", "--endpoint", "app", "--yes"]);
    assert_eq!(yes, (Some(0), "0 deliveries are deleted\n".to_owned()));
    assert_eq!(relay.app.database.deliveries().await.len(), 0);
}

async fn commands_report_suppressed_deliveries(database: Database) {
    let relay = remove_endpoint(database).await;
    let database = &relay.app.database;
    let when = |condition| Suppression::of_updates_when("relay_deliveries", condition);
    let left = |count: u8| {
        format!(
            "error: the database left {count} of the selected deliveries unchanged. Check the triggers and row-level security \
             policies of relay_deliveries.\n"
        )
    };
    let moving = ["deliveries", "move", "--from", "old", "--to", "app"];

    when("NEW.endpoint = 'app'").start(database).await;
    let none_moved = relay.run(&moving);
    when("NEW.endpoint = 'app'").stop(database).await;
    when("NEW.id = 1").start(database).await;
    let one_moved = relay.run(&moving);
    when("NEW.id = 1").stop(database).await;

    let printed = |changed: &str, count| (Some(1), format!("{changed}\n{}", left(count)));
    assert_eq!(none_moved, printed("0 deliveries are moved", 2));
    assert_eq!(one_moved, printed("1 delivery is moved", 1));
    database
        .execute_script("UPDATE relay_deliveries SET status = 'failed', due_at = NULL, completed_at = created_at, endpoint = 'app'")
        .await;
    when("NEW.id = 1").start(database).await;
    let one = relay.run(&["deliveries", "replay", "1"]);
    let both = relay.run(&[
        "deliveries",
        "replay",
        "--endpoint",
        "app",
        "--status",
        "failed",
    ]);
    assert_eq!(one, printed("0 deliveries are pending again", 1));
    assert_eq!(both, printed("1 delivery is pending again", 1));
    let keep = Suppression::of_deletes_when("relay_deliveries", "OLD.id = 1");
    keep.start(database).await;
    let deleted = relay.run(&[
        "deliveries",
        "delete",
        "--endpoint",
        "app",
        "--with-failed",
        "--yes",
    ]);
    assert_eq!(deleted, printed("1 delivery is deleted", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_backlog_of_each_endpoint() {
    let relay = remove_endpoint(Database::sqlite()).await;
    let (_, database) = relay.app.stop().await;
    let old = json!([{"name": "old", "url": "http://127.0.0.1:1/", "include_models": [IMAGES], "paused": true}]);
    let variables = [("APP__RELAY__ENDPOINTS", &*old.to_string())];
    let app = App::start_with(database, &variables).await;

    wait::until_async("the backlog is counted", async || {
        let metrics = app.get_ops("/metrics").await.body;
        let sample = "relay_waiting_deliveries{endpoint=\"old\"} 2";
        metrics.as_str().expect("text").contains(sample)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_endpoint_with_sample_event() {
    let relay = RelayingService::start(Database::sqlite()).await;

    let (code, printed) = relay.run(&["endpoints", "test", "app"]);

    assert_eq!(
        (code, printed.as_str()),
        (
            Some(0),
            "app accepted the message: the endpoint answered 200\n"
        )
    );
    let message = relay.subscriber.received().remove(0);
    assert_eq!(message.json()["event"], "test");
    relay
        .subscriber
        .respond_with(SubscriberResponse::Status(403));
    assert_eq!(
        relay.run(&["endpoints", "test", "app"]),
        (
            Some(1),
            "error: app did not accept the message: answered 403 Forbidden\n".to_owned()
        )
    );
    relay.upload("image").await;
    let real = relay.json(&["deliveries", "show", "1", "--json"])["payload"].clone();
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(
        keys(&message.json()),
        keys(&real),
        "the sample has the fields of a real event"
    );
    assert_eq!(keys(&message.json()["object"]), keys(&real["object"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_hides_secrets_and_sends_nothing() {
    let relay = RelayingService::start(Database::sqlite()).await;
    let event = json!({"id": "evt_1", "event": "updated", "model": {"label": IMAGES}, "object": {"id": "7"}}).to_string();
    fs::write(relay.folder.path().join("event.json"), &event).expect("a file");

    let (code, printed) = relay.run(&["endpoints", "preview", "app", "--event", "event.json"]);

    assert_eq!(code, Some(0), "{printed}");
    let (head, body) = printed.split_once("\n\n").expect("a head and a body");
    assert_eq!(body.trim_end(), event);
    for line in [
        "POST http://127.0.0.1:",
        "authorization: ***",
        "webhook-id: evt_1",
        "x-webhook-event-id: evt_1",
        "x-webhook-signature: sha256=",
    ] {
        assert!(
            head.lines().any(|one| one.starts_with(line)),
            "{line}: {head}"
        );
    }
    assert!(!printed.contains("SECRET"), "{printed}");
    assert_eq!(relay.subscriber.received().len(), 0);
}
