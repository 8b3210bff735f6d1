//! An empty database for one test, and direct access to its tables.

use std::sync::atomic::{AtomicU32, Ordering};

use cloudflare_images_webhook::domain::timestamp::Timestamp;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};
use tempfile::TempDir;

use super::cluster::{Cluster, Durability, shared_server};
use super::wait;

/// A database that one test owns.
pub(crate) struct Database {
    /// The value for `DATABASE_URL`.
    pub(crate) url: String,
    /// The folder of a SQLite file. Dropping it removes the file.
    _folder: Option<TempDir>,
    /// A server of its own, for tests that stop it.
    pub(crate) cluster: Option<Cluster>,
}

enum Connected {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    /// Returns a SQLite database whose file does not exist yet.
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::with_prefix("images-webhook-sqlite-").expect("a temporary folder");
        let url = format!(
            "sqlite://{}",
            folder.path().join("data/images.db").display()
        );
        Self {
            url,
            _folder: Some(folder),
            cluster: None,
        }
    }

    /// Returns the database at this URL, which the caller created.
    pub(crate) fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            _folder: None,
            cluster: None,
        }
    }

    /// Creates a database on the shared server.
    pub(crate) async fn postgres() -> Self {
        Self {
            url: create(&shared_server()).await,
            _folder: None,
            cluster: None,
        }
    }

    /// Creates a database on a server that no other test uses.
    pub(crate) async fn postgres_own_server() -> Self {
        let cluster = Cluster::start(Durability::Fsync);
        let mut database = Self::postgres_on(&cluster).await;
        database.cluster = Some(cluster);
        database
    }

    /// Creates a database on this server.
    pub(crate) async fn postgres_on(cluster: &Cluster) -> Self {
        Self {
            url: create(&cluster.url("postgres")).await,
            _folder: None,
            cluster: None,
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// Runs SQL that both databases understand, with text parameters.
    pub(crate) async fn execute(&self, sql: &str, parameters: &[&str]) {
        match self.connect().await {
            Connected::Sqlite(mut connection) => {
                let query = parameters
                    .iter()
                    .fold(sqlx::query(AssertSqlSafe(sql.to_owned())), |query, text| {
                        query.bind((*text).to_owned())
                    });
                query
                    .execute(&mut connection)
                    .await
                    .unwrap_or_else(|error| panic!("{sql}: {error}"));
                connection.close().await.expect("it closes");
            }
            Connected::Postgres(mut connection) => {
                let query = parameters
                    .iter()
                    .fold(sqlx::query(AssertSqlSafe(sql.to_owned())), |query, text| {
                        query.bind((*text).to_owned())
                    });
                query
                    .execute(&mut connection)
                    .await
                    .unwrap_or_else(|error| panic!("{sql}: {error}"));
                connection.close().await.expect("it closes");
            }
        }
    }

    /// Runs a script with several statements.
    pub(crate) async fn execute_script(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.connect().await {
            Connected::Sqlite(mut connection) => drop(
                connection
                    .execute(sqlx::raw_sql(sql))
                    .await
                    .expect("the script runs"),
            ),
            Connected::Postgres(mut connection) => drop(
                connection
                    .execute(sqlx::raw_sql(sql))
                    .await
                    .expect("the script runs"),
            ),
        }
    }

    /// Registers an image as an app does.
    pub(crate) async fn register(&self, id: &str) {
        self.execute(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES ($1)",
            &[id],
        )
        .await;
    }

    /// Returns a registrar that also works while the database is down.
    pub(crate) fn registrar(&self) -> Registrar {
        Registrar {
            url: self.url.clone(),
        }
    }

    /// Returns the row of an image. Times are in RFC 3339 form, and JSON columns are JSON.
    pub(crate) async fn image(&self, id: &str) -> Value {
        let mut rows = self
            .rows("cloudflare_images", "WHERE cloudflare_id = $1", Some(id))
            .await;
        assert_eq!(rows.len(), 1, "{id} has one row");
        rows.remove(0)
    }

    /// Returns the rows of the audit log, in order.
    pub(crate) async fn logs(&self) -> Vec<Value> {
        self.rows("cloudflare_image_logs", "ORDER BY id", None)
            .await
    }

    /// Returns the rejections, in order. Bodies are hexadecimal.
    pub(crate) async fn rejections(&self) -> Vec<Value> {
        self.rows("webhook_rejections", "ORDER BY id", None).await
    }

    /// Returns the deliveries, in order.
    pub(crate) async fn deliveries(&self) -> Vec<Value> {
        self.rows("relay_deliveries", "ORDER BY id", None).await
    }

    /// Returns the events, in order.
    pub(crate) async fn events(&self) -> Vec<Value> {
        self.rows("relay_events", "ORDER BY id", None).await
    }

    /// Returns the delivery attempts, in order.
    pub(crate) async fn attempts(&self) -> Vec<Value> {
        self.rows("relay_attempts", "ORDER BY id", None).await
    }

    /// Returns the types of the audit log's entries, in order.
    pub(crate) async fn log_types(&self) -> Vec<String> {
        self.logs()
            .await
            .iter()
            .map(|log| log["event_type"].as_str().expect("a text").to_owned())
            .collect()
    }

    /// Returns the rows of the image and audit log tables, to check that nothing changed.
    pub(crate) async fn images_and_logs(&self) -> Vec<Value> {
        let mut rows = self
            .rows("cloudflare_images", "ORDER BY cloudflare_id", None)
            .await;
        rows.extend(self.logs().await);
        rows
    }

    /// Returns the number that a query selects.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.connect().await {
            Connected::Sqlite(mut connection) => sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a number"),
            Connected::Postgres(mut connection) => sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .expect("a number"),
        }
    }

    /// Returns the first column of every row, as text.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.connect().await {
            Connected::Sqlite(mut connection) => sqlx::query_scalar(sql)
                .fetch_all(&mut connection)
                .await
                .expect("texts"),
            Connected::Postgres(mut connection) => sqlx::query_scalar(sql)
                .fetch_all(&mut connection)
                .await
                .expect("texts"),
        }
    }

    /// Returns the same Postgres database again, for a second replica.
    pub(crate) fn for_replica(&self) -> Self {
        assert!(self.is_postgres(), "only Postgres supports replicas");
        Self {
            url: self.url.clone(),
            _folder: None,
            cluster: None,
        }
    }

    /// Runs SQL in a transaction and leaves it open, as another program may. The locks last until
    /// `Lock::release`.
    pub(crate) async fn hold_lock_of(&self, sql: &str) -> Lock {
        let mut connection = PgConnection::connect(&self.url).await.expect("it answers");
        connection
            .execute(AssertSqlSafe(format!("BEGIN; {sql}")))
            .await
            .expect("a lock");
        Lock(Connected::Postgres(connection))
    }

    /// Blocks writes to this image: locks its row on Postgres, and the whole file on SQLite.
    pub(crate) async fn lock_image(&self, id: &str) -> Lock {
        match self.connect().await {
            Connected::Postgres(_) => {
                self.hold_lock_of(&format!(
                    "SELECT FROM cloudflare_images WHERE cloudflare_id = '{id}' FOR UPDATE"
                ))
                .await
            }
            Connected::Sqlite(mut connection) => {
                connection.execute("BEGIN IMMEDIATE").await.expect("a lock");
                Lock(Connected::Sqlite(connection))
            }
        }
    }

    /// Blocks all writes. On Postgres it also blocks reads, and the check of the migrations.
    pub(crate) async fn lock_tables(&self) -> Lock {
        match self.connect().await {
            Connected::Postgres(_) => {
                self.hold_lock_of("LOCK TABLE cloudflare_images, webhook_rejections, cloudflare_images_webhook_migrations").await
            }
            Connected::Sqlite(mut connection) => {
                // A busy writer can keep this connection waiting longer than its busy timeout.
                wait::until_async("a lock", async || {
                    connection.execute("BEGIN EXCLUSIVE").await.is_ok()
                })
                .await;
                Lock(Connected::Sqlite(connection))
            }
        }
    }

    /// Waits until a statement waits for a lock.
    pub(crate) async fn wait_for_lock_waiter(&self) {
        wait::until_async("a statement waits for a lock", async || {
            self.lock_waiters().await > 0
        })
        .await;
    }

    /// Returns the number of statements that wait for a lock.
    pub(crate) async fn lock_waiters(&self) -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(waiting).await
    }

    async fn rows(&self, table: &str, clause: &str, parameter: Option<&str>) -> Vec<Value> {
        let mut rows = self.raw_rows(table, clause, parameter).await;
        rows.iter_mut().for_each(normalize_times);
        rows
    }

    async fn raw_rows(&self, table: &str, clause: &str, parameter: Option<&str>) -> Vec<Value> {
        match self.connect().await {
            Connected::Sqlite(mut connection) => {
                let sql = format!(
                    "SELECT json_object({}) FROM {table} {clause}",
                    sqlite_columns(&mut connection, table).await
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(parameter.map(str::to_owned));
                let rows = query
                    .fetch_all(&mut connection)
                    .await
                    .expect("the rows can be read");
                rows.iter()
                    .map(|row| serde_json::from_str(row.get::<&str, _>(0)).expect("JSON"))
                    .collect()
            }
            Connected::Postgres(mut connection) => {
                let sql =
                    format!("SELECT to_jsonb(t)::text FROM (SELECT * FROM {table} {clause}) AS t");
                let sql = if parameter.is_none() {
                    sqlx::query(AssertSqlSafe(sql))
                } else {
                    sqlx::query(AssertSqlSafe(sql)).bind(parameter.map(str::to_owned))
                };
                let rows = sql
                    .fetch_all(&mut connection)
                    .await
                    .expect("the rows can be read");
                rows.iter()
                    .map(|row| serde_json::from_str(row.get::<&str, _>(0)).expect("JSON"))
                    .collect()
            }
        }
    }

    async fn connect(&self) -> Connected {
        if self.is_postgres() {
            Connected::Postgres(
                PgConnection::connect(&self.url)
                    .await
                    .expect("the database answers"),
            )
        } else {
            Connected::Sqlite(
                SqliteConnection::connect(&self.url)
                    .await
                    .expect("the database answers"),
            )
        }
    }
}

/// An app that registers images.
pub(crate) struct Registrar {
    url: String,
}

impl Registrar {
    /// Registers these images unless they exist. Fails while the database is down.
    pub(crate) async fn register(&self, ids: &[&str]) -> Result<(), sqlx::Error> {
        let placeholders: Vec<String> = (1..=ids.len())
            .map(|number| format!("(${number})"))
            .collect();
        let sql = AssertSqlSafe(format!(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES {} ON CONFLICT DO NOTHING",
            placeholders.join(", ")
        ));
        if self.url.starts_with("postgres") {
            let mut connection = PgConnection::connect(&self.url).await?;
            let query = ids
                .iter()
                .fold(sqlx::query(sql), |query, id| query.bind((*id).to_owned()));
            query.execute(&mut connection).await?;
        } else {
            let mut connection = SqliteConnection::connect(&self.url).await?;
            let query = ids
                .iter()
                .fold(sqlx::query(sql), |query, id| query.bind((*id).to_owned()));
            query.execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }
}

/// A lock that another program holds.
pub(crate) struct Lock(Connected);

impl Lock {
    /// Releases the lock.
    pub(crate) async fn release(self) {
        match self.0 {
            Connected::Postgres(mut connection) => {
                connection.execute("ROLLBACK").await.expect("no lock");
            }
            Connected::Sqlite(mut connection) => {
                connection.execute("ROLLBACK").await.expect("no lock");
            }
        }
    }
}

async fn create(server: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let name = format!(
        "spec_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let mut connection = PgConnection::connect(server)
        .await
        .unwrap_or_else(|error| panic!("the tests' Postgres does not answer: {error}"));
    connection
        .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .expect("CREATE DATABASE succeeds");
    let mut url = url::Url::parse(server).expect("a URL");
    url.set_path(&name);
    url.to_string()
}

/// Returns the arguments of `json_object` for a table's columns. JSON and boolean columns keep
/// their types.
async fn sqlite_columns(connection: &mut SqliteConnection, table: &str) -> String {
    let rows = sqlx::query("SELECT name, type FROM pragma_table_info($1)")
        .bind(table.to_owned())
        .fetch_all(connection)
        .await
        .expect("columns");
    let column = |row: &sqlx::sqlite::SqliteRow| {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        match (name.as_str(), kind.as_str()) {
            ("metadata" | "variants" | "cloudflare_metadata" | "data", _) => {
                format!("'{name}', json({name})")
            }
            // In the form in which Postgres writes bytes.
            (_, "BLOB") => {
                format!("'{name}', iif({name} IS NULL, NULL, '\\x' || lower(hex({name})))")
            }
            (_, "boolean") => format!("'{name}', json(iif({name}, 'true', 'false'))"),
            _ => format!("'{name}', {name}"),
        }
    };
    rows.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// Rewrites times into one form, because each database formats them differently.
fn normalize_times(row: &mut Value) {
    for (name, value) in row.as_object_mut().expect("a row") {
        let is_time = name == "timestamp" || (name.ends_with("_at") && name != "details_at");
        if let (true, Some(text)) = (is_time, value.as_str()) {
            *value = Timestamp::parse_rfc3339(text)
                .expect("a time")
                .to_string()
                .into();
        }
    }
}
