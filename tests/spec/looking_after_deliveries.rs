//! What other apps were told is shown, delivered again, paused and resumed by an operator's commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use reqwest::header::HeaderName;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{run, stderr, stdout};
use crate::support::subscriber::{Answer, RELAY_SECRET, Subscriber};
use crate::support::wait;
use crate::telling_other_apps::states;

const IMAGES: &str = "cloudflare_images.CloudflareImage";

/// A service and its one endpoint, `app`, which gives up after the first try.
struct EffectiveTime {
    app: App,
    subscriber: Subscriber,
    endpoints: String,
    folder: TempDir,
}

impl EffectiveTime {
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

    /// Has an image uploaded, and waits until that was delivered, or was given up.
    async fn upload(&self, id: &str) {
        self.app.database.register(id).await;
        let body = json!({"id": id, "uploaded": "2024-01-01T12:00:00Z"}).to_string();
        assert_eq!(self.app.deliver(body).await.outcome(), (200, "applied"));
        self.wait_until_nothing_waits().await;
    }

    async fn wait_until_nothing_waits(&self) {
        wait::until_async("nothing waits", async || {
            self.app
                .database
                .count("SELECT count(*) FROM relay_deliveries WHERE due_at IS NOT NULL")
                .await
                == 0
        })
        .await;
    }

    /// Runs a command, and returns its exit code and what it printed.
    fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let variables = [
            ("DATABASE_URL", self.app.database.url.as_str()),
            ("APP__RELAY__ENDPOINTS", self.endpoints.as_str()),
        ];
        let output = run(self.folder.path(), words, &variables);
        (output.status.code(), stdout(&output) + &stderr(&output))
    }

    fn json(&self, words: &[&str]) -> Value {
        let (code, said) = self.run(words);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str(&said).expect("JSON")
    }
}

on_both_databases!(
    a_preview_has_the_headers_and_the_bytes_that_are_sent,
    deliveries_are_listed_the_newest_first_by_endpoint_state_and_time,
    a_delivery_is_shown_with_its_tries_and_its_message,
    what_was_given_up_is_delivered_again_under_the_same_id,
    a_paused_endpoint_is_told_nothing_until_it_is_resumed,
    what_was_told_long_ago_is_deleted_and_what_waits_is_kept,
);

async fn a_preview_has_the_headers_and_the_bytes_that_are_sent(database: Database) {
    let told = EffectiveTime::start(database).await;
    told.upload("image").await;
    let sent = told.subscriber.received().remove(0);
    fs::write(told.folder.path().join("event.json"), &sent.body).expect("a file");

    let (code, said) = told.run(&["endpoints", "preview", "app", "--event", "event.json"]);

    assert_eq!(code, Some(0), "{said}");
    let (head, body) = said.split_once("\n\n").expect("a head and a body");
    assert_eq!(
        body,
        format!("{}\n", str::from_utf8(&sent.body).expect("text"))
    );
    let lines = head
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").expect("a header"));
    let shown: BTreeMap<&str, &str> = lines.clone().collect();
    assert_eq!(shown.len(), lines.count(), "each once: {head}");
    let names: Vec<&str> = sent.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(
        shown.keys().copied().collect::<BTreeSet<_>>(),
        names.into_iter().collect()
    );
    for (name, value) in shown {
        let is_of_the_moment = name.ends_with("-timestamp") || name.ends_with("-signature");
        let is_secret = name == "authorization";
        assert!(
            value == sent.header(name) || is_of_the_moment || is_secret,
            "{name}: {value}"
        );
    }
}

async fn deliveries_are_listed_the_newest_first_by_endpoint_state_and_time(database: Database) {
    let told = EffectiveTime::start(database).await;
    told.upload("first").await;
    told.subscriber.answer(Answer::Status(500));
    told.app.clock.advance(Duration::from_mins(1));
    told.upload("second").await;

    let images = |words: &[&str]| -> Vec<String> {
        let listed = told.json(&[&["deliveries", "list", "--json"], words].concat());
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
    let (_, table) = told.run(&["deliveries", "list"]);
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("ID  CREATED"), "{table}");
    assert!(
        lines[1].contains("failed") && lines[1].ends_with("answered 500 Internal Server Error"),
        "{table}"
    );
    assert!(lines[2].contains("delivered"), "{table}");
}

async fn a_delivery_is_shown_with_its_tries_and_its_message(database: Database) {
    let told = EffectiveTime::start(database).await;
    told.upload("image").await;

    let shown = told.json(&["deliveries", "show", "1", "--json"]);

    let message = told.subscriber.received().remove(0);
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
    let (code, text) = told.run(&["deliveries", "show", "1"]);
    assert!(
        code == Some(0) && text.contains("\n TRY  STARTED"),
        "{text}"
    );
    let (code, said) = told.run(&["deliveries", "show", "7"]);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(1),
            "error: there is no delivery 7; `deliveries list` shows what there is\n"
        )
    );
}

async fn what_was_given_up_is_delivered_again_under_the_same_id(database: Database) {
    let told = EffectiveTime::start(database).await;
    told.subscriber.answer(Answer::Status(500));
    told.upload("first").await;
    told.upload("second").await;
    told.subscriber.answer(Answer::Status(200));
    // The command's clock is the machine's: for the service, what it made due is due in a future.
    told.app.clock.advance(Duration::from_hours(24 * 365 * 30));

    assert_eq!(
        told.run(&[
            "deliveries",
            "replay",
            "--endpoint",
            "app",
            "--status",
            "failed"
        ]),
        (Some(0), "2 deliveries are due again\n".to_owned())
    );

    let received = told.subscriber.wait_for(4).await;
    told.wait_until_nothing_waits().await;
    let mut ids: Vec<String> = received
        .iter()
        .map(crate::support::subscriber::Received::event_id)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2, "the ids stay");
    assert_eq!(
        told.run(&["deliveries", "replay", "--endpoint", "app"]).0,
        Some(1),
        "not everything, by mistake"
    );
    assert_eq!(
        told.run(&["deliveries", "replay", "1"]),
        (Some(0), "1 delivery is due again\n".to_owned())
    );
    told.subscriber.wait_for(5).await;
    told.wait_until_nothing_waits().await;
    let attempts = told
        .app
        .database
        .count("SELECT count(*) FROM relay_attempts WHERE delivery_id = 1")
        .await;
    assert_eq!(attempts, 3, "every try is kept");
}

async fn a_paused_endpoint_is_told_nothing_until_it_is_resumed(database: Database) {
    let told = EffectiveTime::start(database).await;
    assert_eq!(
        told.run(&["endpoints", "pause", "app"]),
        (Some(0), "app is paused\n".to_owned())
    );
    told.app.database.register("image").await;
    assert_eq!(
        told.app
            .deliver(r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );

    let listed = told.json(&["endpoints", "list", "--json"]);
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
            &json!("somebody paused it")
        )
    );
    assert_eq!(
        told.json(&["deliveries", "list", "--json", "--status", "paused"])
            .as_array()
            .expect("an array")
            .len(),
        1
    );
    told.app.wait_for_claim().await;
    assert_eq!(states(&told.app.database).await, ["pending"]);
    assert_eq!(told.subscriber.received().len(), 0);
    assert_eq!(
        told.run(&["endpoints", "resume", "app"]),
        (Some(0), "app is told again, what waited first\n".to_owned())
    );

    told.subscriber.wait_for(1).await;
    told.wait_until_nothing_waits().await;
    assert_eq!(
        told.run(&["endpoints", "resume", "app"]),
        (Some(0), "app was not paused\n".to_owned())
    );
    told.run(&["endpoints", "pause", "app"]);
    told.app
        .database
        .execute(
            "UPDATE relay_endpoints SET pause_reason = 'its settings pause it'",
            &[],
        )
        .await;
    assert_eq!(
        told.run(&["endpoints", "resume", "app"]),
        (
            Some(1),
            "error: app is paused by its settings: \
             set paused = false, and start the service again\n"
                .to_owned()
        )
    );
    assert_eq!(
        told.run(&["endpoints", "pause", "ap"]),
        (
            Some(1),
            "error: no endpoint is called \"ap\" in the settings; \
             `endpoints list` shows which there are\n"
                .to_owned()
        )
    );
}

async fn what_was_told_long_ago_is_deleted_and_what_waits_is_kept(database: Database) {
    let told = EffectiveTime::start(database).await;
    told.upload("delivered").await;
    told.run(&["endpoints", "pause", "app"]);
    told.app.database.register("waits").await;
    assert_eq!(
        told.app
            .deliver(r#"{"id":"waits","uploaded":"2024-01-01T12:00:00Z"}"#)
            .await
            .outcome(),
        (200, "applied")
    );
    let (_, database) = told.app.stop().await;

    // The tests' clock stands in 2024, the command's does not.
    let variables = [
        ("DATABASE_URL", database.url.as_str()),
        ("APP__RETENTION__LOGS_DAYS", "0"),
        ("APP__RETENTION__REJECTIONS_DAYS", "0"),
    ];
    let said = stdout(&run(
        told.folder.path(),
        &["retention", "prune"],
        &variables,
    ));

    assert!(
        said.ends_with("relay_deliveries: 1 rows were deleted\n"),
        "{said}"
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

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_tried_out_by_hand() {
    let told = EffectiveTime::start(Database::sqlite()).await;

    let (code, said) = told.run(&["endpoints", "test", "app"]);

    assert_eq!(
        (code, said.as_str()),
        (Some(0), "app took it: it answered 200\n")
    );
    let message = told.subscriber.received().remove(0);
    assert_eq!(message.json()["event"], "test");
    told.subscriber.answer(Answer::Status(403));
    assert_eq!(
        told.run(&["endpoints", "test", "app"]),
        (
            Some(1),
            "error: app did not take it: answered 403 Forbidden\n".to_owned()
        )
    );
    told.upload("image").await;
    let real = told.json(&["deliveries", "show", "1", "--json"])["payload"].clone();
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
        "it looks like a real one"
    );
    assert_eq!(keys(&message.json()["object"]), keys(&real["object"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_would_get_is_shown_and_not_sent() {
    let told = EffectiveTime::start(Database::sqlite()).await;
    let event = json!({"id": "evt_1", "event": "updated", "model": {"label": IMAGES}, "object": {"id": "7"}}).to_string();
    fs::write(told.folder.path().join("event.json"), &event).expect("a file");

    let (code, said) = told.run(&["endpoints", "preview", "app", "--event", "event.json"]);

    assert_eq!(code, Some(0), "{said}");
    let (head, body) = said.split_once("\n\n").expect("a head and a body");
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
    assert!(!said.contains("SECRET"), "{said}");
    assert_eq!(told.subscriber.received().len(), 0);
}
