//! A database that is away: 500, logged with its cause, not ready; and all by itself well again when it returns.

use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

use crate::support::app::{App, answer};
use crate::support::database::Database;
use crate::support::proxy::Proxy;
use crate::support::signing::SECRET;
use crate::support::wait;

const BODY: &str = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;

/// A short patience, so that the tests have one too.
const IMPATIENT: [(&str, &str); 2] = [
    ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1"),
    ("APP__DATABASE__TIMEOUT_SECS", "2"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postgres_means_500_and_not_ready_until_it_returns() {
    let app = App::start_with(Database::postgres_own_server().await, &IMPATIENT).await;
    app.database.register("image").await;
    let cluster = app.database.cluster.as_ref().expect("a server of its own");

    cluster.stop();
    let (answered, readiness, liveness) = (
        app.deliver(BODY).await,
        app.get_ops("/readyz").await,
        app.get_ops("/livez").await,
    );

    assert_eq!(answered.outcome(), (500, "internal-error"));
    assert_eq!(
        answered.body["detail"],
        json!(null),
        "the cause is for the log alone"
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
    assert_eq!(liveness.status, 200, "it is not the process that is broken");

    cluster.restart();
    wait::until_async("it is well again", async || {
        app.deliver(BODY).await.status == 200
    })
    .await;
    assert_eq!(app.get_ops("/readyz").await.status, 200);
    assert_eq!(app.database.log_types().await[0], "webhook_received");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_restarts_within_the_patience_is_not_noticed() {
    let app = App::start_with(
        Database::postgres_own_server().await,
        &[
            ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "60"),
            ("APP__DATABASE__TIMEOUT_SECS", "120"),
        ],
    )
    .await;
    app.database.register("image").await;
    let cluster = app.database.cluster.as_ref().expect("a server of its own");
    cluster.stop();

    let (answered, ()) = tokio::join!(app.deliver(BODY), async {
        tokio::task::block_in_place(|| cluster.restart());
    });

    assert_eq!(answered.outcome(), (200, "applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_postgres_means_500_within_the_deadline() {
    let app = App::start_with(Database::postgres_own_server().await, &IMPATIENT).await;
    app.database.register("image").await;
    let cluster = app.database.cluster.as_ref().expect("a server of its own");

    cluster.freeze();
    let (answered, readiness) = (app.deliver(BODY).await, app.get_ops("/readyz").await);
    cluster.thaw();

    assert_eq!(answered.outcome(), (500, "internal-error"));
    assert_eq!(readiness.status, 503);
    // The first may have been committed, and only its answer lost.
    wait::until_async("it is well again", async || {
        app.deliver(BODY).await.status == 200
    })
    .await;
    assert_eq!(app.database.image("image").await["status"], "uploaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_another_process_holds_locked_means_500_until_it_is_let_go() {
    let app = App::start_with(Database::sqlite(), &IMPATIENT).await;
    app.database.register("image").await;
    let mut other = SqliteConnection::connect(&app.database.url)
        .await
        .expect("the file opens");

    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    let answered = app.deliver(BODY).await;
    other.execute("ROLLBACK").await.expect("no lock");

    assert_eq!(answered.outcome(), (500, "internal-error"));
    assert_eq!(app.deliver(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_is_moved_away_means_500_and_not_ready_until_it_is_back() {
    let app = App::start_with(Database::sqlite(), &IMPATIENT).await;
    app.database.register("image").await;
    let file = app
        .database
        .url
        .strip_prefix("sqlite://")
        .expect("a file")
        .to_owned();
    let away = format!("{file}.away");

    std::fs::rename(&file, &away).expect("it can be moved");
    let answered = app.deliver(BODY).await;
    let readiness = app.get_ops("/readyz").await;
    std::fs::write(&file, "").expect("another file");
    let replaced = app.deliver(BODY).await;
    std::fs::rename(&away, &file).expect("it can be moved back");

    assert_eq!(answered.outcome(), (500, "internal-error"));
    assert_eq!(replaced.outcome(), (500, "internal-error"));
    assert_eq!(readiness.status, 503);
    assert!(
        readiness.body["database"]["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("was moved, deleted or replaced")),
        "{}",
        readiness.body
    );
    assert_eq!(app.deliver(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_makes_no_sense_is_a_500_that_leaves_other_images_alone() {
    let app = App::start_with(Database::sqlite(), &IMPATIENT).await;
    app.database.register("image").await;
    app.database.register("broken").await;
    app.database
        .execute(
            "UPDATE cloudflare_images SET details_at = 'not JSON' WHERE cloudflare_id = $1",
            &["broken"],
        )
        .await;

    let told = json!({"id": "broken", "uploaded": "2024-01-01T12:00:00Z", "variants": ["https://a.example/1"]});

    assert_eq!(
        app.deliver(told.to_string()).await.outcome(),
        (500, "internal-error")
    );
    assert_eq!(app.deliver(BODY).await.outcome(), (200, "applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_program_holds_locked_in_postgres_means_500_until_it_is_let_go() {
    let app = App::start_with(Database::postgres().await, &IMPATIENT).await;
    app.database.register("image").await;
    let lock = app
        .database
        .hold_lock_of("UPDATE cloudflare_images SET user_id = 1")
        .await;

    let answered = app.deliver(BODY).await;
    let still_waiting = app.database.lock_waiters().await;
    lock.release().await;

    assert_eq!(answered.outcome(), (500, "internal-error"));
    assert_eq!(
        still_waiting, 0,
        "the statement does not run on behind our back"
    );
    assert_eq!(app.deliver(BODY).await.outcome(), (200, "applied"));
    assert_eq!(app.database.log_types().await, ["webhook_received"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_connections_to_postgres_bear_our_name_and_are_no_more_than_the_setting_allows() {
    let app = App::start_with(
        Database::postgres().await,
        &[("APP__DATABASE__MAX_CONNECTIONS", "3")],
    )
    .await;
    app.database.register("image").await;

    let mut running = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let request = app.request(BODY).header("cf-webhook-auth", SECRET);
        running.spawn(async move { answer(request).await.status.as_u16() });
    }
    let statuses = running.join_all().await;

    let ours = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'cloudflare-images-webhook'";
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!((1..=3).contains(&app.database.count(ours).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_replaced_while_new_ones_work() {
    let mut database = Database::postgres().await;
    let direct = database.url.clone();
    let proxy = Proxy::in_front_of(&direct).await;
    database.url = proxy.url(&direct);
    let app = App::start_with(database, &IMPATIENT).await;
    app.database.register("image").await;
    // Every connection of the pool has been used, and none is open to be noticed as closed.
    assert_eq!(app.deliver(BODY).await.outcome(), (200, "applied"));

    proxy.blackhole();
    wait::until_async("a webhook is recorded again", async || {
        app.deliver(BODY).await.outcome() == (200, "duplicate")
    })
    .await;

    assert_eq!(app.get_ops("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_has_restarted_is_met_with_fresh_connections_and_no_failure() {
    let app = App::start(Database::postgres_own_server().await).await;
    app.database.register("image").await;
    let cluster = app.database.cluster.as_ref().expect("a server of its own");
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let request = app.request(BODY).header("cf-webhook-auth", SECRET);
        running.spawn(async move { answer(request).await.status.as_u16() });
    }
    assert_eq!(
        running.join_all().await,
        [200; 8],
        "the pool is full of connections that were used a moment ago"
    );

    tokio::task::block_in_place(|| {
        cluster.stop();
        cluster.restart();
    });

    for _ in 0..8 {
        assert_eq!(app.deliver(BODY).await.outcome(), (200, "duplicate"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_that_cannot_be_written_is_not_ready() {
    let app = App::start_with(Database::sqlite(), &IMPATIENT).await;
    let mut other = SqliteConnection::connect(&app.database.url)
        .await
        .expect("the file opens");

    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    let held = app.get_ops("/readyz").await;
    other.execute("ROLLBACK").await.expect("no lock");

    assert_eq!(
        (held.status.as_u16(), &held.body["database"]["ok"]),
        (503, &json!(false))
    );
    wait::until_async("it is ready again", async || {
        app.get_ops("/readyz").await.status == 200
    })
    .await;
}
