//! Migrations, and the schema that apps may rely on.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Stdio};

use cloudflare_images_webhook::domain::timestamp::Timestamp;
use futures_util::FutureExt;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;
use uuid::{Uuid, Variant, Version};

use crate::on_both_databases;
use crate::support::app::{App, client, response_to};
use crate::support::database::Database;
use crate::support::plain_user::PlainUser;
use crate::support::ports::free_port;
use crate::support::program::{Service, program, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::wait;

#[tokio::test]
async fn refuses_utf16_database() {
    let folder = TempDir::new().expect("a folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("app.db"))
        .create_if_missing(true);
    let mut app = options.connect().await.expect("the file opens");
    app.execute("PRAGMA encoding = 'UTF-16le'; CREATE TABLE app (id integer)")
        .await
        .expect("a table");
    app.close().await.expect("the file closes");

    let output = run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", "sqlite://app.db")],
    );

    assert_eq!(output.status.code(), Some(1));
    let printed = stderr(&output);
    assert!(
        printed.contains(
            "app.db stores text as UTF-16le (PRAGMA encoding), but this service needs UTF-8"
        ),
        "{printed}"
    );
}

on_both_databases!(
    app_inserts_image_with_id_only,
    image_ids_are_ordered_by_creation,
    rejects_unknown_status,
    rejects_state_without_its_time,
    second_migration_changes_nothing,
    concurrent_migrations_succeed,
    is_ready_with_newer_schema,
);

async fn app_inserts_image_with_id_only(database: Database) {
    let app = App::start(database).await;

    app.database
        .execute(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES ($1)",
            &["image"],
        )
        .await;

    let image = app.database.image("image").await;
    assert_eq!(
        (
            &image["status"],
            &image["metadata"],
            &image["variants"],
            &image["error"]
        ),
        (&json!("pending"), &json!({}), &json!([]), &json!(""))
    );
    assert_eq!(
        image["id"].as_str().map(str::len),
        Some(36),
        "expected a hyphenated UUID"
    );
    assert!(image["expires_at"].as_str() > image["created_at"].as_str());
}

async fn image_ids_are_ordered_by_creation(database: Database) {
    let app = App::start(database).await;

    for number in 0..20 {
        app.database.register(&format!("image-{number}")).await;
        // Ids of the same millisecond have no order.
        wait::until_next_millisecond().await;
    }

    let ids = app
        .database
        .texts("SELECT CAST(id AS text) FROM cloudflare_images ORDER BY created_at")
        .await;
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 20);
    for id in &ids {
        let id = Uuid::parse_str(id).expect("a UUID");
        assert_eq!(
            (id.get_version(), id.get_variant()),
            (Some(Version::SortRand), Variant::RFC4122),
            "{id}: RFC 9562, section 5.7"
        );
    }
    let (seconds, _) = Uuid::parse_str(&ids[0])
        .ok()
        .and_then(|id| id.get_timestamp())
        .expect("the UUID has a time")
        .to_unix();
    let created_at = app.database.image("image-0").await["created_at"]
        .as_str()
        .and_then(|at| Timestamp::parse_rfc3339(at).ok());
    let created_at = created_at.expect("a time").unix_seconds().cast_unsigned();
    assert!(
        seconds.abs_diff(created_at) <= 1,
        "seconds since 1970: {seconds}, {created_at}"
    );
}

async fn rejects_unknown_status(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;

    let refused = tokio::spawn(async move {
        app.database
            .execute(
                "UPDATE cloudflare_images SET status = 'lost' WHERE cloudflare_id = $1",
                &["image"],
            )
            .await;
    })
    .await;

    assert!(
        refused
            .expect_err("the update panics")
            .into_panic()
            .downcast_ref::<String>()
            .is_some_and(|text| text.contains("cloudflare_images_status_check"))
    );
}

async fn rejects_state_without_its_time(database: Database) {
    let app = App::start(database).await;
    let time = if app.database.is_postgres() {
        "'2024-01-01 12:00:00+00'"
    } else {
        "'2024-01-01T12:00:00.000000Z'"
    };
    app.database
        .execute_script(&format!(
            "INSERT INTO webhook_rejections (received_at, status, reason) VALUES ({time}, 404, 'unknown-image');
             INSERT INTO cloudflare_upload_requests (id, request_digest, lease, leased_at, created_at)
                 VALUES ('app/key', 'digest', 'lease', {time}, {time});
             INSERT INTO relay_events (id, event, model, payload, created_at) VALUES ('evt_1', 'updated', 'm', '{{}}', {time});
             INSERT INTO relay_deliveries (event_id, endpoint, due_at, created_at) VALUES ('evt_1', 'app', {time}, {time});"
        ))
        .await;

    for (table, values, constraint) in [
        (
            "webhook_rejections",
            "state = 'parked'",
            "webhook_rejections_times_check",
        ),
        (
            "webhook_rejections",
            "state = 'applied'",
            "webhook_rejections_times_check",
        ),
        (
            "webhook_rejections",
            "state = 'failed'",
            "webhook_rejections_times_check",
        ),
        (
            "cloudflare_upload_requests",
            "lease = NULL",
            "cloudflare_upload_requests_lease_check",
        ),
        (
            "cloudflare_upload_requests",
            "state = 'interrupted'",
            "cloudflare_upload_requests_lease_check",
        ),
        (
            "cloudflare_upload_requests",
            "state = 'finished', lease = NULL, leased_at = NULL",
            "cloudflare_upload_requests_answer_check",
        ),
        (
            "relay_deliveries",
            "status = 'leased'",
            "relay_deliveries_times_check",
        ),
        (
            "relay_deliveries",
            "status = 'delivered'",
            "relay_deliveries_times_check",
        ),
        (
            "relay_deliveries",
            "due_at = NULL",
            "relay_deliveries_times_check",
        ),
        (
            "relay_deliveries",
            "lease = 'mine'",
            "relay_deliveries_times_check",
        ),
    ] {
        let sql = format!("UPDATE {table} SET {values}");
        let updating = AssertUnwindSafe(app.database.execute(&sql, &[]));

        let panic = updating.catch_unwind().await.expect_err(values);
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains(constraint), "{values}: {message}");
    }
}

async fn second_migration_changes_nothing(database: Database) {
    let folder = TempDir::new().expect("a folder");
    let variables = [("DATABASE_URL", database.url.as_str())];

    let (first, second) = (
        run(folder.path(), &["migrate"], &variables),
        run(folder.path(), &["migrate"], &variables),
    );

    assert!(first.status.success() && second.status.success());
    assert_eq!(
        stdout(&first),
        "the tables are up to date; migrations run: 7\n"
    );
    assert_eq!(stdout(&second), "the tables are up to date\n");
}

async fn concurrent_migrations_succeed(database: Database) {
    let folder = TempDir::new().expect("a folder");
    let start = || {
        let mut command = program(folder.path());
        command
            .arg("migrate")
            .env("DATABASE_URL", &database.url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("the program runs")
    };

    let started: Vec<Child> = (0..6).map(|_| start()).collect();

    for child in started {
        let output = child.wait_with_output().expect("the program ends");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let versions = database
        .count("SELECT count(*) FROM cloudflare_images_webhook_migrations")
        .await;
    assert_eq!(versions, 7);
}

async fn is_ready_with_newer_schema(database: Database) {
    let app = App::start(database).await;
    app.database.execute_script(
            "INSERT INTO cloudflare_images_webhook_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'of the future', success, checksum, execution_time FROM cloudflare_images_webhook_migrations WHERE version = 1",
        ).await;
    let (_, database) = app.stop().await;

    let app = App::start(database).await;

    assert_eq!(app.get_ops("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_create_starts_on_migrated_tables() {
    let database = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let migrated = run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", &database.url)],
    );
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let user = PlainUser::create(&database).await;
    let grant = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
        user.name
    );
    database.execute_script(&grant).await;
    database.register("image").await;
    let variables = [
        ("DATABASE_URL", user.url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];

    let service = Service::start(folder.path(), &variables);

    let readiness = response_to(client().get(service.ops_url("/readyz"))).await;
    assert_eq!(readiness.status, 200, "{}", readiness.body);
    let webhook = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET);
    let body = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;
    let webhook = response_to(webhook.body(body)).await;
    assert_eq!(webhook.outcome(), (200, "applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_privilege_on_schema_names_its_grant() {
    let database = Database::postgres().await;
    let user = PlainUser::create(&database).await;
    let folder = TempDir::new().expect("a folder");
    let migrate = || run(folder.path(), &["migrate"], &[("DATABASE_URL", &user.url)]);

    let refused = migrate();
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {}", user.name);
    database.execute_script(&grant).await;
    let granted = migrate();

    assert_eq!(refused.status.code(), Some(1));
    let error = stderr(&refused);
    assert!(
        error.contains(&format!("user {} of database", user.name)),
        "{error}"
    );
    assert!(error.contains(&format!("run {grant}")), "{error}");
    assert!(granted.status.success(), "{}", stderr(&granted));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_schema_is_named() {
    let database = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let url = format!("{}?schema=nope", database.url);

    let refused = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);
    database.execute_script("CREATE SCHEMA nope").await;
    let created = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);

    let error = stderr(&refused);
    assert!(
        error.contains("can use no schema of its search path (\"nope\"); run CREATE SCHEMA"),
        "{error}"
    );
    assert!(created.status.success(), "{}", stderr(&created));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_sessions_are_named() {
    let database = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let migrated = run(
        folder.path(),
        &["migrate"],
        &[("DATABASE_URL", &database.url)],
    );
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let url = format!("{}?options[default_transaction_read_only]=on", database.url);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let (port, ops_port) = (free_port(), free_port());

    let service = Service::launch(folder.path(), &variables, port, ops_port);

    wait::until("the log names it", || {
        let log = service.log();
        log.iter()
            .any(|line| line.contains("check default_transaction_read_only"))
    });
}
