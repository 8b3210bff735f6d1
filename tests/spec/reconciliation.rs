//! Reconciliation: images that wait for their upload for long are looked up at Cloudflare.

use std::process::Output;

use serde_json::json;
use tempfile::TempDir;

use crate::on_both_databases;
use crate::support::cloudflare::{ApiFault, Cloudflare};
use crate::support::database::Database;
use crate::support::program::{Service, run, stderr, stdout};
use crate::support::subscriber::Subscriber;
use crate::support::wait;

on_both_databases!(
    service_finds_lost_uploads,
    service_without_account_calls_nobody,
    zero_minutes_turn_lookups_off,
    command_settles_waiting_images,
    dry_run_changes_nothing,
    one_image_is_looked_up_by_id,
    since_leaves_older_images,
    ids_of_any_form_are_found,
    errors_expire_nothing,
    bad_answer_costs_one_image,
    next_run_repeats_after_error,
    command_waits_after_too_many_calls,
    replicas_look_up_each_image_once,
    replicas_share_limit_on_calls,
    lookup_survives_refused_detail,
);

/// Cloudflare, and the database of a service.
struct Setup {
    cloudflare: Cloudflare,
    database: Database,
    folder: TempDir,
}

impl Setup {
    /// Starts Cloudflare, and makes the tables.
    async fn start(database: Database) -> Self {
        let setup = Self {
            cloudflare: Cloudflare::start().await,
            database,
            folder: TempDir::new().expect("a folder"),
        };
        let migrated = setup.run(&["migrate"], &[]).await;
        assert!(migrated.status.success(), "{}", stderr(&migrated));
        setup
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("DATABASE_URL", self.database.url.clone()),
            ("APP__CLOUDFLARE__TIMEOUT_SECS", "15".to_owned()),
        ];
        variables.extend(self.cloudflare.variables());
        variables
    }

    async fn run(&self, arguments: &[&str], further: &[(&'static str, &str)]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut variables = self.variables();
        variables.extend(
            further
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let folder = self.folder.path().to_owned();
        let running = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(&folder, &arguments, &as_strs(&variables))
        });
        running.await.expect("it ends")
    }

    /// Runs `reconcile`, and returns what it prints.
    async fn reconcile(&self, arguments: &[&str]) -> String {
        let arguments = [&["reconcile"], arguments].concat();
        let output = self.run(&arguments, &[]).await;
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// Runs `reconcile`, which fails, and returns its error.
    async fn fail(&self, arguments: &[&str]) -> String {
        let arguments = [&["reconcile"], arguments].concat();
        let output = self.run(&arguments, &[]).await;
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        stderr(&output)
    }

    /// Registers an image two hours ago. Its upload URL has expired or not.
    async fn register(&self, id: &str, is_expired: bool) {
        let hours = |hours| hours_from_now(hours).to_string();
        let end = hours(if is_expired { -1 } else { 1 });
        let times = if self.database.is_postgres() {
            "$2::timestamptz, $3::timestamptz"
        } else {
            "$2, $3"
        };
        let sql = format!(
            "INSERT INTO cloudflare_images (cloudflare_id, created_at, expires_at) VALUES ($1, {times})"
        );
        self.database.execute(&sql, &[id, &hours(-2), &end]).await;
    }

    async fn status(&self, id: &str) -> String {
        let row = self.database.image(id).await;
        row["status"].as_str().expect("a status").to_owned()
    }

    /// Returns the paths of the lookups.
    fn lookups(&self) -> Vec<String> {
        let calls = self.cloudflare.calls().into_iter();
        calls
            .filter(|call| call.starts_with("GET /images/"))
            .collect()
    }
}

fn as_strs<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    let variables = variables.iter();
    variables.map(|(name, value)| (*name, &**value)).collect()
}

fn hours_from_now(hours: i64) -> cloudflare_images_webhook::domain::timestamp::Timestamp {
    use cloudflare_images_webhook::clock::{Clock, SystemClock};
    let now = SystemClock.now();
    let distance = std::time::Duration::from_hours(hours.unsigned_abs());
    if hours < 0 {
        now.saturating_sub(distance)
    } else {
        now.saturating_add(distance)
    }
}

async fn service_finds_lost_uploads(database: Database) {
    let setup = Setup::start(database).await;
    let subscriber = Subscriber::start().await;
    for (id, is_expired) in [
        ("lost", true),
        ("given-up", true),
        ("unused", true),
        ("open", false),
    ] {
        setup.register(id, is_expired).await;
    }
    setup.cloudflare.add_image("lost", false);
    setup.cloudflare.add_image("unused", true);
    setup.cloudflare.add_image("open", true);
    let endpoints = json!([{"name": "app", "url": subscriber.url()}]);
    let mut variables = setup.variables();
    variables.extend([
        (
            "CLOUDFLARE_WEBHOOK_SECRET",
            "a-secret-of-the-tests-0123456789".to_owned(),
        ),
        ("APP__RELAY__ENDPOINTS", endpoints.to_string()),
    ]);

    let service = Service::start(setup.folder.path(), &as_strs(&variables));

    wait::until_async("three images are settled", async || {
        let settled =
            "SELECT count(*) FROM cloudflare_images WHERE status NOT IN ('pending', 'draft')";
        setup.database.count(settled).await == 3
    })
    .await;
    assert_eq!(setup.status("lost").await, "uploaded");
    assert_eq!(setup.status("given-up").await, "expired");
    assert_eq!(setup.status("unused").await, "expired");
    assert_eq!(setup.status("open").await, "pending");
    let row = setup.database.image("lost").await;
    assert_eq!(row["filename"], "cat.jpg");
    assert_eq!(row["uploaded_at"], "2026-01-02T03:04:05.678000Z");
    assert_eq!(setup.database.log_types().await, ["reconciled"; 3]);
    subscriber.wait_for(3).await;
    assert_eq!(setup.lookups().len(), 4);
    drop(service);
}

async fn service_without_account_calls_nobody(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("lost", true).await;
    setup.cloudflare.add_image("lost", false);
    let variables = [
        ("DATABASE_URL", setup.database.url.clone()),
        (
            "CLOUDFLARE_WEBHOOK_SECRET",
            "a-secret-of-the-tests-0123456789".to_owned(),
        ),
        ("APP__CLOUDFLARE__BASE_URL", setup.cloudflare.url()),
    ];

    let mut service = Service::start(setup.folder.path(), &as_strs(&variables));
    service.wait_until_ready();
    service.signal("-TERM");
    assert!(service.wait().success());

    assert!(setup.cloudflare.calls().is_empty());
    assert_eq!(setup.status("lost").await, "pending");
}

async fn zero_minutes_turn_lookups_off(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("lost", true).await;
    setup.cloudflare.add_image("lost", false);
    let mut variables = setup.variables();
    variables.extend([
        (
            "CLOUDFLARE_WEBHOOK_SECRET",
            "a-secret-of-the-tests-0123456789".to_owned(),
        ),
        ("APP__RECONCILE__AFTER_MINUTES", "0".to_owned()),
    ]);

    let mut service = Service::start(setup.folder.path(), &as_strs(&variables));
    service.wait_until_ready();
    service.signal("-TERM");
    assert!(service.wait().success());

    assert!(setup.cloudflare.calls().is_empty());
    let output = setup
        .run(&["reconcile"], &[("APP__RECONCILE__AFTER_MINUTES", "0")])
        .await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(setup.status("lost").await, "uploaded");
}

async fn command_settles_waiting_images(database: Database) {
    let setup = Setup::start(database).await;
    for number in 0..45 {
        setup.register(&format!("image-{number}"), true).await;
    }
    for number in 0..30 {
        setup
            .cloudflare
            .add_image(&format!("image-{number}"), false);
    }
    setup.register("open", false).await;

    let printed = setup.reconcile(&[]).await;

    assert_eq!(
        printed,
        "looked up 46: 30 became uploaded, 15 became expired, 1 still wait, 0 were settled by a webhook meanwhile, 0 failed.\n"
    );
    assert_eq!(setup.status("image-0").await, "uploaded");
    assert_eq!(setup.status("image-44").await, "expired");
    assert_eq!(setup.lookups().len(), 46);
    setup.reconcile(&[]).await;
    assert_eq!(setup.lookups().len(), 47, "only the open one");
}

async fn dry_run_changes_nothing(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("lost", true).await;
    setup.register("gone", true).await;
    setup.register("open", false).await;
    setup.cloudflare.add_image("lost", false);
    let before = setup.database.images_and_logs().await;

    let printed = setup.reconcile(&["--dry-run"]).await;

    let mut lines: Vec<&str> = printed.lines().collect();
    let summary = lines.pop().expect("a summary");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "gone: would become expired",
            "lost: would become uploaded",
            "open: still waits for its upload",
        ]
    );
    assert!(summary.starts_with("looked up 3: 1 would become uploaded, 1 would become expired"));
    assert_eq!(setup.database.images_and_logs().await, before);
    let queued = "SELECT count(*) FROM cloudflare_image_lookups";
    assert_eq!(setup.database.count(queued).await, 0);
}

async fn one_image_is_looked_up_by_id(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("a", true).await;
    setup.register("b", true).await;
    setup.cloudflare.add_image("a", false);

    assert_eq!(
        setup.reconcile(&["--id", "a", "--dry-run"]).await,
        "a: would become uploaded\n"
    );
    assert_eq!(setup.status("a").await, "pending");
    assert_eq!(setup.reconcile(&["--id", "a"]).await, "a: is uploaded\n");
    assert_eq!(setup.status("a").await, "uploaded");
    assert_eq!(
        setup.reconcile(&["--id", "a"]).await,
        "a: unchanged: the row has this or a newer status\n"
    );
    assert_eq!(setup.status("b").await, "pending");
    assert_eq!(setup.database.log_types().await, ["reconciled"]);
    let error = setup.fail(&["--id", "none"]).await;
    assert!(error.contains("there is no image none"), "{error}");
}

async fn since_leaves_older_images(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("old", true).await;
    let now = hours_from_now(0).to_string();

    let printed = setup.reconcile(&["--since", &now]).await;

    assert_eq!(printed, "no image waits for its upload for long enough.\n");
    assert!(setup.lookups().is_empty());
    let since = hours_from_now(-3).to_string();
    setup.reconcile(&["--since", &since]).await;
    assert_eq!(setup.status("old").await, "expired");
}

async fn ids_of_any_form_are_found(database: Database) {
    let setup = Setup::start(database).await;
    let ids = [
        "users/7/cat.jpg",
        "100%25 größe?.png#1",
        "a b+c&d=e",
        "猫🐈",
        "..%2f..",
        "a/../b",
        "\"'<script>",
    ];
    for id in ids {
        setup.register(id, true).await;
        setup.cloudflare.add_image(id, false);
    }

    setup.reconcile(&[]).await;

    for id in ids {
        assert_eq!(setup.status(id).await, "uploaded", "{id}");
    }
    let encoded = "GET /images/v1/users%2F7%2Fcat.jpg".to_owned();
    assert!(setup.lookups().contains(&encoded));
}

async fn errors_expire_nothing(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("a", true).await;
    for (fault, expected) in [
        (
            ApiFault::Error(401, 10000, "Authentication error"),
            "refused the token",
        ),
        (ApiFault::Error(403, 10000, "Forbidden"), "no permission"),
        (
            ApiFault::Error(404, 7003, "Could not route"),
            "cloudflare.account_id",
        ),
        (ApiFault::Html(404), "404 Not Found without JSON"),
        (ApiFault::Html(502), "502 Bad Gateway"),
        (ApiFault::FailedSuccess, "500 Internal Server Error"),
        (ApiFault::Redirect, "a redirect"),
        (ApiFault::TruncatedJson, "without JSON"),
        (ApiFault::HugeJson, "more than"),
        (ApiFault::OtherResult, "another form"),
        (ApiFault::NoAnswer, "within 2 seconds"),
        (ApiFault::NoBody, "within 2 seconds"),
    ] {
        setup.cloudflare.fail_always(Some(fault.clone()));

        let further: &[_] = if expected.contains("2 seconds") {
            &[("APP__CLOUDFLARE__TIMEOUT_SECS", "2")]
        } else {
            &[]
        };
        let output = setup.run(&["reconcile"], further).await;

        assert_eq!(output.status.code(), Some(1), "{fault:?}");
        let error = stderr(&output);
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert_eq!(setup.status("a").await, "pending", "{fault:?}");
    }
    assert!(setup.database.logs().await.is_empty());
}

async fn bad_answer_costs_one_image(database: Database) {
    let setup = Setup::start(database).await;
    for id in ["a", "b", "c"] {
        setup.register(id, true).await;
        setup.cloudflare.add_image(id, false);
    }
    setup.cloudflare.fail_next(ApiFault::OtherResult);

    let output = setup.run(&["reconcile"], &[]).await;

    assert_eq!(output.status.code(), Some(1));
    let printed = stdout(&output);
    assert!(
        printed.starts_with("looked up 3: 2 became uploaded"),
        "{printed}"
    );
    assert!(printed.contains("1 failed"), "{printed}");
    setup.reconcile(&[]).await;
    for id in ["a", "b", "c"] {
        assert_eq!(setup.status(id).await, "uploaded");
    }
}

async fn next_run_repeats_after_error(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("a", true).await;
    setup.cloudflare.add_image("a", false);
    setup.cloudflare.fail_always(Some(ApiFault::Html(503)));
    let error = setup.fail(&[]).await;
    assert!(error.contains("Cloudflare is not available"), "{error}");
    setup.cloudflare.fail_always(None);

    setup.reconcile(&[]).await;

    assert_eq!(setup.status("a").await, "uploaded");
}

async fn command_waits_after_too_many_calls(database: Database) {
    let setup = Setup::start(database).await;
    for number in 0..25 {
        let id = format!("image-{number}");
        setup.register(&id, true).await;
        setup.cloudflare.add_image(&id, false);
    }
    // One call and its repetitions.
    for _ in 0..3 {
        setup.cloudflare.fail_next(ApiFault::TooManyCalls(Some(1)));
    }

    let printed = setup.reconcile(&[]).await;

    assert!(
        printed.starts_with("looked up 25: 25 became uploaded"),
        "{printed}"
    );
}

async fn replicas_look_up_each_image_once(database: Database) {
    let setup = Setup::start(database).await;
    for number in 0..60 {
        let id = format!("image-{number}");
        setup.register(&id, true).await;
        setup.cloudflare.add_image(&id, false);
    }

    let (one, two) = tokio::join!(setup.reconcile(&[]), setup.reconcile(&[]));

    let mut lookups = setup.lookups();
    lookups.sort_unstable();
    let all = lookups.len();
    lookups.dedup();
    assert_eq!((all, lookups.len()), (60, 60), "{one}{two}");
    let settled = "SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'";
    assert_eq!(setup.database.count(settled).await, 60);
}

/// With this limit, background work may make one call at once, and the next one after 19 seconds.
async fn replicas_share_limit_on_calls(database: Database) {
    let setup = Setup::start(database).await;
    for number in 0..5 {
        setup.register(&format!("image-{number}"), true).await;
    }
    let limit = [("APP__CLOUDFLARE__MAX_CALLS_PER_5_MINUTES", "10")];
    let preview = || setup.run(&["reconcile", "--dry-run"], &limit);

    let outputs = tokio::join!(preview(), preview(), preview());

    for output in [outputs.0, outputs.1, outputs.2] {
        let error = stderr(&output);
        assert!(error.contains("too many calls to Cloudflare"), "{error}");
    }
    // Each process alone could make one. A slow machine may get to the second one.
    let lookups = setup.lookups().len();
    assert!((1..=2).contains(&lookups), "{lookups}");
}

async fn lookup_survives_refused_detail(database: Database) {
    let setup = Setup::start(database).await;
    setup.register("a", true).await;
    setup.cloudflare.add_image("a", false);
    let check = if setup.database.is_postgres() {
        "ALTER TABLE cloudflare_images ADD CONSTRAINT no_cats CHECK (filename <> 'cat.jpg')"
    } else {
        "CREATE TRIGGER no_cats BEFORE UPDATE ON cloudflare_images WHEN new.filename = 'cat.jpg'
             BEGIN SELECT RAISE(ABORT, 'no cats'); END"
    };
    setup.database.execute_script(check).await;

    setup.reconcile(&[]).await;

    assert_eq!(setup.status("a").await, "uploaded");
    assert_eq!(setup.database.image("a").await["filename"], "");
}
