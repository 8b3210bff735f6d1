//! Connection poolers in front of Postgres: the service works in each pool mode.

use std::process::{Child, Stdio};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row};
use tempfile::TempDir;

use crate::relay_delivery::{IMAGES, uploaded, wait_until_none_due};
use crate::support::app::{client, response_to};
use crate::support::database::Database;
use crate::support::pooler::Pooler;
use crate::support::ports::free_port;
use crate::support::program::{Service, program, run, stderr, stdout};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Subscriber};
use crate::support::wait;

/// The tables of the Django toolkit, which the migrations adopt.
const DJANGO_SCHEMA: &str = include_str!("../fixtures/django_toolkit.sql");

const SHARED_SESSIONS: &str = "a connection pooler shares server sessions between transactions";

/// The locks of the migrations that are held.
const MIGRATION_LOCKS: &str = "SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A service behind a pooler, with an endpoint for image events.
struct Setup {
    database: Database,
    subscriber: Subscriber,
    service: Service,
    _folder: TempDir,
}

impl Setup {
    async fn start(pooler: &Pooler, setting: &str) -> Self {
        let database = Database::postgres().await;
        let url = pooler.url(&database);
        Self::start_at(url, database, setting).await
    }

    /// Starts the service with this URL of the database.
    async fn start_at(url: String, database: Database, setting: &str) -> Self {
        let subscriber = Subscriber::start().await;
        let endpoints = json!([{
            "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": [IMAGES],
        }])
        .to_string();
        let folder = TempDir::new().expect("a folder");
        let variables = [
            ("DATABASE_URL", url),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET.to_owned()),
            ("APP__DATABASE__POOLER", setting.to_owned()),
            ("APP__RELAY__ENDPOINTS", endpoints),
        ];
        let variables = variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let service = Service::start(folder.path(), &variables);
        Self {
            database,
            subscriber,
            service,
            _folder: folder,
        }
    }

    async fn post(&self, body: String) -> u16 {
        let request = client()
            .post(self.service.url())
            .header("cf-webhook-auth", SECRET);
        response_to(request.body(body)).await.status.as_u16()
    }

    async fn readiness(&self) -> u16 {
        let request = client().get(self.service.ops_url("/readyz"));
        response_to(request).await.status.as_u16()
    }

    fn has_logged(&self, message: &str) -> bool {
        self.service.log().iter().any(|line| line.contains(message))
    }

    /// Sends webhooks of several images at once, one of which is registered later, and checks their effects.
    async fn assert_works(&mut self) {
        let images: Vec<_> = (0..40).map(|number| format!("image-{number}")).collect();
        for image in &images {
            self.database.register(image).await;
        }
        let early = self.post(uploaded("early")).await;

        let posts = images.iter().map(|image| self.post(uploaded(image)));
        let statuses = join_all(posts).await;
        self.database.register("early").await;
        wait::until_async("the parked notification is applied", async || {
            self.database.image("early").await["status"] == "uploaded"
        })
        .await;
        wait_until_none_due(&self.database).await;

        assert_eq!(early, 404);
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        for image in &images {
            assert_eq!(self.database.image(image).await["status"], "uploaded");
        }
        assert_eq!(self.subscriber.received().len(), images.len() + 1);
        assert_eq!(self.readiness().await, 200);
        self.service.signal("-TERM");
        assert_eq!(self.service.wait().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_shared_sessions() {
    let mut setup = Setup::start(Pooler::in_transaction_mode(), "auto").await;

    setup.assert_works().await;

    assert!(setup.has_logged(SHARED_SESSIONS));
}

#[tokio::test(flavor = "multi_thread")]
async fn works_with_a_single_server_session() {
    let pooler = Pooler::start("transaction", "max_db_connections = 1");
    let mut setup = Setup::start(&pooler, "auto").await;

    setup.assert_works().await;

    assert!(setup.has_logged(SHARED_SESSIONS));
}

#[tokio::test(flavor = "multi_thread")]
async fn works_behind_pooler_in_session_mode() {
    let pooler = Pooler::start("session", "");
    for setting in ["auto", "session"] {
        let mut setup = Setup::start(&pooler, setting).await;

        setup.assert_works().await;

        assert!(!setup.has_logged(SHARED_SESSIONS), "{setting}");
    }
}

/// A pooler that rotates the server sessions never shows a client its own traces.
#[tokio::test(flavor = "multi_thread")]
async fn works_behind_pooler_that_rotates_sessions() {
    let pooler = Pooler::start("transaction", "server_round_robin = 1");
    let mut setup = Setup::start(&pooler, "auto").await;

    setup.assert_works().await;

    assert!(setup.has_logged(SHARED_SESSIONS));
}

/// A service that takes it for a pooler in session mode would change settings and prepare statements in shared sessions.
#[tokio::test(flavor = "multi_thread")]
async fn unclear_pool_mode_counts_as_transaction() {
    let pooler = Pooler::start("transaction", "max_db_connections = 1");
    let database = Database::postgres().await;
    let url = pooler.url(&database);
    // The second connection of the service waits behind one of them for longer than the detection.
    let busy_clients: Vec<_> = (0..2)
        .map(|_| tokio::spawn(keep_busy(url.clone())))
        .collect();
    let folder = TempDir::new().expect("a folder");
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "60"),
        ("APP__DATABASE__TIMEOUT_SECS", "60"),
    ];

    let mut service = Service::launch(folder.path(), &variables, free_port(), free_port());

    wait::until("the detection ends without a result", || {
        let log = service.log();
        let message = "cannot detect whether a connection pooler";
        log.iter().any(|line| line.contains(message))
    });
    for client in &busy_clients {
        client.abort();
    }
    service.wait_until_ready();
    assert_eq!(show(&url, "enable_seqscan").await, "on");
}

/// Runs transactions that last longer than the service waits for the second connection of the detection.
async fn keep_busy(url: String) {
    loop {
        first_value(&url, "BEGIN; SELECT pg_sleep(2.5)::text; COMMIT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_change_of_pool_mode() {
    let mut pooler = Pooler::start("session", "");
    let mut setup = Setup::start(&pooler, "auto").await;
    assert!(!setup.has_logged(SHARED_SESSIONS));

    pooler.restart("transaction", "max_db_connections = 1");
    wait::until_async("the service detects the change", async || {
        let posts = (0..10).map(|number| setup.post(uploaded(&format!("unknown-{number}"))));
        drop(join_all(posts).await);
        setup.has_logged(SHARED_SESSIONS)
    })
    .await;

    setup.assert_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn error_names_statement_mode() {
    let pooler = Pooler::start("statement", "");
    let database = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let url = pooler.url(&database);

    let migrated = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);

    let error = stderr(&migrated);
    assert!(
        error.contains("set its pool mode to transaction or session"),
        "{error}"
    );
}

/// `PgBouncer` refuses startup options, so the service sets the schema itself. The tables are adopted, so the index is built outside
/// a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn schema_of_url_works_behind_pooler() {
    let session_mode = Pooler::start("session", "");
    let shared = Pooler::in_transaction_mode();
    for (pooler, parameter) in [
        (shared, "schema=app"),
        (shared, "options=-c%20search_path%3Dapp,public"),
        (&session_mode, "search_path=app"),
    ] {
        let mut database = Database::postgres().await;
        let url = format!("{}?{parameter}", pooler.url(&database));
        database.execute("CREATE SCHEMA app", &[]).await;
        database.url += "?options=-c%20search_path%3Dapp";
        database.execute_script(DJANGO_SCHEMA).await;
        let mut setup = Setup::start_at(url, database, "auto").await;

        setup.assert_works().await;

        let elsewhere = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(setup.database.count(elsewhere).await, 0, "{parameter}");
        let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'app'
            AND indexname = 'cloudflare_image_logs_image_id_timestamp'";
        assert_eq!(setup.database.count(indexes).await, 1, "{parameter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn error_names_wrong_pool_mode() {
    let pooler = Pooler::start("transaction", "server_round_robin = 1");
    let database = Database::postgres().await;
    let folder = TempDir::new().expect("a folder");
    let url = pooler.url(&database);
    let migrated = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("APP__DATABASE__POOLER", "none"),
    ];

    wait::until("a statement meets another session", || {
        let listed = run(folder.path(), &["images", "list"], &variables);
        let error = stderr(&listed);
        error.contains(
            "shares server sessions between transactions; set database.pooler to transaction",
        )
    });
}

#[tokio::test]
async fn parameter_of_url_sets_transaction_mode() {
    let folder = TempDir::new().expect("a folder");
    let database = Database::postgres().await;
    let url = format!("{}?pgbouncer=true", database.url);

    let migrated = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);

    assert!(migrated.status.success(), "{}", stderr(&migrated));
    assert!(
        stderr(&migrated).contains(SHARED_SESSIONS),
        "{}",
        stderr(&migrated)
    );
}

/// A timeout of the service must not apply to other clients of the pooler.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_no_setting_in_shared_sessions() {
    let pooler = Pooler::start("transaction", "max_db_connections = 1");
    let setup = Setup::start(&pooler, "auto").await;
    setup.database.register("image").await;
    assert_eq!(setup.post(uploaded("image")).await, 200);
    let url = pooler.url(&setup.database);

    for (setting, default) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("enable_seqscan", "on"),
        ("synchronous_commit", "on"),
    ] {
        assert_eq!(show(&url, setting).await, default, "{setting}");
    }
    let prepared = "SELECT count(*)::text FROM pg_prepared_statements";
    assert_eq!(first_value(&url, prepared).await, "0");
}

/// Returns a setting of the session that the pooler gives to a new client.
async fn show(url: &str, setting: &str) -> String {
    first_value(url, &format!("SHOW {setting}")).await
}

/// Runs a query by the simple protocol, which needs no prepared statement.
async fn first_value(url: &str, sql: &str) -> String {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut other = PgConnection::connect_with(&options.extra_float_digits(None))
        .await
        .expect("the pooler answers");
    let row = other.fetch_one(sqlx::AssertSqlSafe(sql.to_owned())).await;
    row.expect("a value").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_start_together_behind_pooler() {
    let database = Database::postgres().await;
    let url = Pooler::in_transaction_mode().url(&database);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let folders = [(); 3].map(|()| TempDir::new().expect("a folder"));

    let starting = folders.each_ref().map(|folder| {
        let (path, variables) = (
            folder.path().to_owned(),
            variables.map(|(name, value)| (name, value.to_owned())),
        );
        tokio::task::spawn_blocking(move || {
            let variables = variables
                .each_ref()
                .map(|(name, value)| (*name, value.as_str()));
            Service::start(&path, &variables)
        })
    });

    for service in join_all(starting).await {
        let service = service.expect("it starts");
        let readiness = response_to(client().get(service.ops_url("/readyz"))).await;
        assert_eq!(readiness.status, 200);
    }
}

/// The process dies while it has the lock of the migrations.
#[tokio::test(flavor = "multi_thread")]
async fn killed_migration_leaves_no_lock_in_pooler() {
    let session_mode = Pooler::start("session", "");
    for pooler in [Pooler::in_transaction_mode(), &session_mode] {
        let database = Database::postgres().await;
        database.execute_script(DJANGO_SCHEMA).await;
        let read = database
            .hold_lock_of("SELECT FROM cloudflare_images LIMIT 1")
            .await;
        let folder = TempDir::new().expect("a folder");
        let url = pooler.url(&database);
        let mut killed = start_migration(&folder, &url);
        wait::until_async("it has the lock", async || {
            database.count(MIGRATION_LOCKS).await == 1
        })
        .await;

        killed.kill().expect("it runs");
        killed.wait().expect("it has ended");
        read.release().await;

        wait::until_async("the lock is free", async || {
            database.count(MIGRATION_LOCKS).await == 0
        })
        .await;
        let migrated = run(folder.path(), &["migrate"], &[("DATABASE_URL", &url)]);
        assert!(migrated.status.success(), "{}", stderr(&migrated));
        let listed = run(
            folder.path(),
            &["images", "list"],
            &[("DATABASE_URL", &url)],
        );
        assert!(
            stdout(&listed).contains("django-uploaded"),
            "{}",
            stdout(&listed)
        );
    }
}

fn start_migration(folder: &TempDir, url: &str) -> Child {
    let mut command = program(folder.path());
    command.arg("migrate").env("DATABASE_URL", url);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program runs")
}
