//! Database outages: the service responds with 500, logs the cause, is not ready, and recovers
//! without a restart.

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};
use tempfile::TempDir;

use crate::support::app::{App, client, response_to};
use crate::support::database::Database;
use crate::support::program::Service;
use crate::support::proxy::Proxy;
use crate::support::signing::SECRET;
use crate::support::wait;

const BODY: &str = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;

/// Short timeouts keep the tests short.
const SHORT_TIMEOUTS: [(&str, &str); 2] = [
    ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
    ("APP__DATABASE__TIMEOUT_SECS", "2"),
];

/// During a failover, new sessions can be read-only. They stay so, also after the server accepts writes.
#[tokio::test(flavor = "multi_thread")]
async fn read_only_sessions_are_replaced() {
    let app = App::start_with(Database::postgres().await, &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let end_sessions = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    set_read_only(&app.database, "on").await;
    app.database.count(end_sessions).await;

    wait::until_async(
        "it is not ready, because the database is read-only",
        async || {
            let readiness = app.get_ops("/readyz").await;
            let problem = readiness.body["database"]["problem"].to_string();
            readiness.status == 503 && problem.contains("read-only")
        },
    )
    .await;
    let posts = (0..8).map(|_| app.post_webhook(BODY));
    let during = join_all(posts).await;
    set_read_only(&app.database, "off").await;
    wait::until_async("it is ready", async || {
        app.get_ops("/readyz").await.status == 200
    })
    .await;
    let posts = (0..8).map(|_| app.post_webhook(BODY));
    let after = join_all(posts).await;

    for response in during {
        assert_eq!(response.outcome(), (500, "internal-error"));
    }
    for response in after {
        assert_eq!(response.status, 200);
    }
}

/// Sets whether new sessions are read-only.
async fn set_read_only(database: &Database, value: &str) {
    let script = format!(
        "SET TRANSACTION READ WRITE;
         DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}', current_database());
         END $$;"
    );
    database.execute_script(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_postgres_causes_500_until_restart() {
    let app = App::start_with(Database::postgres_own_server().await, &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let cluster = app
        .database
        .cluster
        .as_ref()
        .expect("the database has its own server");

    cluster.stop();
    let (response, readiness, liveness) = (
        app.post_webhook(BODY).await,
        app.get_ops("/readyz").await,
        app.get_ops("/livez").await,
    );

    assert_eq!(response.outcome(), (500, "internal-error"));
    assert_eq!(
        response.body["detail"],
        json!(null),
        "the response must not contain the cause"
    );
    assert_eq!(
        (readiness.status.as_u16(), &readiness.body["status"]),
        (503, &json!("not-ready"))
    );
    assert_eq!(readiness.body["database"]["ok"], false);
    assert!(
        readiness.body["database"]["problem"]
            .as_str()
            .is_some_and(|problem| !problem.is_empty()),
        "{}",
        readiness.body
    );
    assert_eq!(liveness.status, 200, "the process is alive");

    cluster.restart();
    wait::until_async("the service recovers", async || {
        app.post_webhook(BODY).await.status == 200
    })
    .await;
    assert_eq!(app.get_ops("/readyz").await.status, 200);
    assert_eq!(app.database.log_types().await[0], "webhook_received");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_postgres_restart_within_timeout() {
    let app = App::start_with(
        Database::postgres_own_server().await,
        &[
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "60"),
            ("APP__DATABASE__TIMEOUT_SECS", "120"),
        ],
    )
    .await;
    app.database.register("image").await;
    let cluster = app
        .database
        .cluster
        .as_ref()
        .expect("the database has its own server");
    cluster.stop();

    let (response, ()) = tokio::join!(app.post_webhook(BODY), async {
        tokio::task::block_in_place(|| cluster.restart());
    });

    assert_eq!(response.outcome(), (200, "applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_postgres_causes_500_within_deadline() {
    let app = App::start_with(Database::postgres_own_server().await, &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let cluster = app
        .database
        .cluster
        .as_ref()
        .expect("the database has its own server");

    cluster.freeze();
    let (response, readiness) = (app.post_webhook(BODY).await, app.get_ops("/readyz").await);
    cluster.thaw();

    assert_eq!(response.outcome(), (500, "internal-error"));
    assert_eq!(readiness.status, 503);
    // The first notification may have been committed although its response was lost.
    wait::until_async("the service recovers", async || {
        app.post_webhook(BODY).await.status == 200
    })
    .await;
    assert_eq!(app.database.image("image").await["status"], "uploaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_sqlite_causes_500_until_unlock() {
    let app = App::start_with(Database::sqlite(), &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let mut other = SqliteConnection::connect(&app.database.url)
        .await
        .expect("the file opens");

    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    let response = app.post_webhook(BODY).await;
    other.execute("ROLLBACK").await.expect("no lock");

    assert_eq!(response.outcome(), (500, "internal-error"));
    assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_sqlite_file_causes_500() {
    let app = App::start_with(Database::sqlite(), &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let file = app
        .database
        .url
        .strip_prefix("sqlite://")
        .expect("a file")
        .to_owned();
    let away = format!("{file}.away");

    std::fs::rename(&file, &away).expect("the file is moved");
    let response = app.post_webhook(BODY).await;
    let readiness = app.get_ops("/readyz").await;
    std::fs::write(&file, "").expect("another file");
    let replaced = app.post_webhook(BODY).await;
    std::fs::rename(&away, &file).expect("the file is moved back");

    assert_eq!(response.outcome(), (500, "internal-error"));
    assert_eq!(replaced.outcome(), (500, "internal-error"));
    assert_eq!(readiness.status, 503);
    assert!(
        readiness.body["database"]["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("was moved, deleted or replaced")),
        "{}",
        readiness.body
    );
    assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_is_not_ready_on_sqlite() {
    let folder = TempDir::new().expect("a folder");
    let service = Service::start(folder.path(), &[]);
    let status = async || {
        let readiness = response_to(client().get(service.ops_url("/readyz"))).await;
        readiness.status.as_u16()
    };

    let before = status().await;
    service.set_limit("--fsize=1:");
    let full = status().await;
    service.set_limit("--fsize=unlimited:");

    assert_eq!((before, full, status().await), (200, 503, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_row_fails_only_its_image() {
    let app = App::start_with(Database::sqlite(), &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    app.database.register("broken").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET details_at = 'not JSON' WHERE cloudflare_id = $1",
            &["broken"],
        )
        .await;

    let notification = json!({"id": "broken", "uploaded": "2024-01-01T12:00:00Z", "variants": ["https://a.example/1"]});

    assert_eq!(
        app.post_webhook(notification.to_string()).await.outcome(),
        (500, "internal-error")
    );
    assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_postgres_row_causes_500() {
    let app = App::start_with(Database::postgres().await, &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    let lock = app
        .database
        .hold_lock_of("UPDATE cloudflare_images SET user_id = 1")
        .await;

    let response = app.post_webhook(BODY).await;
    let still_waiting = app.database.lock_waiters().await;
    lock.release().await;

    assert_eq!(response.outcome(), (500, "internal-error"));
    assert_eq!(still_waiting, 0, "the statement was cancelled");
    assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_limits_postgres_connections() {
    let app = App::start_with(
        Database::postgres().await,
        &[("APP__DATABASE__MAX_CONNECTIONS", "3")],
    )
    .await;
    app.database.register("image").await;

    let mut running = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = app.request(BODY).header("cf-webhook-auth", SECRET);
        running.spawn(async move { response_to(request).await.status.as_u16() });
    }
    let statuses = running.join_all().await;

    let service_connections = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'cloudflare-images-webhook'";
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!((1..=3).contains(&app.database.count(service_connections).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaces_dead_connections() {
    let mut database = Database::postgres().await;
    let direct = database.url.clone();
    let proxy = Proxy::in_front_of(&direct).await;
    database.url = proxy.url(&direct);
    let app = App::start_with(database, &SHORT_TIMEOUTS).await;
    app.database.register("image").await;
    // The pool now has open connections, and none is known to be dead.
    assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "applied"));

    proxy.blackhole();
    wait::until_async("a webhook is recorded", async || {
        app.post_webhook(BODY).await.outcome() == (200, "duplicate")
    })
    .await;

    assert_eq!(app.get_ops("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_after_postgres_restart() {
    let app = App::start(Database::postgres_own_server().await).await;
    app.database.register("image").await;
    let cluster = app
        .database
        .cluster
        .as_ref()
        .expect("the database has its own server");
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let request = app.request(BODY).header("cf-webhook-auth", SECRET);
        running.spawn(async move { response_to(request).await.status.as_u16() });
    }
    assert_eq!(
        running.join_all().await,
        [200; 8],
        "the pool fills with open connections"
    );

    tokio::task::block_in_place(|| {
        cluster.stop();
        cluster.restart();
    });

    for _ in 0..8 {
        assert_eq!(app.post_webhook(BODY).await.outcome(), (200, "duplicate"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unwritable_sqlite_is_not_ready() {
    let app = App::start_with(Database::sqlite(), &SHORT_TIMEOUTS).await;
    let mut other = SqliteConnection::connect(&app.database.url)
        .await
        .expect("the file opens");

    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    let readiness = app.get_ops("/readyz").await;
    other.execute("ROLLBACK").await.expect("no lock");

    assert_eq!(
        (readiness.status.as_u16(), &readiness.body["database"]["ok"]),
        (503, &json!(false))
    );
    wait::until_async("the service is ready", async || {
        app.get_ops("/readyz").await.status == 200
    })
    .await;
}
