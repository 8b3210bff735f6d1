//! An empty database for one test, and a look into the tables as any app would take it.

use std::sync::atomic::{AtomicU32, Ordering};

use cloudflare_images_webhook::domain::timestamp::Timestamp;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};
use tempfile::TempDir;

use super::cluster::{Cluster, Durability, shared_server};
use super::wait;

/// A database of one test's own.
pub(crate) struct Database {
    /// What `DATABASE_URL` is to be.
    pub(crate) url: String,
    /// Dropped, and so removed, with the test.
    _folder: Option<TempDir>,
    /// Only for a test that stops its server.
    pub(crate) cluster: Option<Cluster>,
}

enum Connected {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    /// A SQLite file that does not exist yet.
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

    /// A new database on the shared server.
    pub(crate) async fn postgres() -> Self {
        Self {
            url: create(&shared_server()).await,
            _folder: None,
            cluster: None,
        }
    }

    /// A new database on a server that no other test uses.
    pub(crate) async fn postgres_of_its_own() -> Self {
        let cluster = Cluster::start(Durability::LikeProduction);
        let mut database = Self::postgres_on(&cluster).await;
        database.cluster = Some(cluster);
        database
    }

    /// A new database on this server.
    pub(crate) async fn postgres_on(cluster: &Cluster) -> Self {
        Self {
            url: create(&cluster.url("postgres")).await,
            _folder: None,
            cluster: None,
        }
    }

    /// Whether this is Postgres.
    pub(crate) fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// Runs SQL that both databases understand, with parameters as texts.
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

    /// Runs a script of many statements.
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

    /// Registers an upload, as an app does.
    pub(crate) async fn register(&self, id: &str) {
        self.execute(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES ($1)",
            &[id],
        )
        .await;
    }

    /// Registers uploads as an app does, again and again, whether the database is there or not.
    pub(crate) fn registrar(&self) -> Registrar {
        Registrar {
            url: self.url.clone(),
        }
    }

    /// The row of an image; times in the form of RFC 3339, JSON as JSON.
    pub(crate) async fn image(&self, id: &str) -> Value {
        let mut rows = self
            .rows("cloudflare_images", "WHERE cloudflare_id = $1", Some(id))
            .await;
        assert_eq!(rows.len(), 1, "there is one row of {id}");
        rows.remove(0)
    }

    /// What the audit trail says, in order; each row of it whole.
    pub(crate) async fn logs(&self) -> Vec<Value> {
        self.rows("cloudflare_image_logs", "ORDER BY id", None)
            .await
    }

    /// What was not applied, in order; each row of it whole, the body in hexadecimal.
    pub(crate) async fn rejections(&self) -> Vec<Value> {
        self.rows("webhook_rejections", "ORDER BY id", None).await
    }

    /// What other apps are told, in order; each row of it whole.
    pub(crate) async fn deliveries(&self) -> Vec<Value> {
        self.rows("relay_deliveries", "ORDER BY id", None).await
    }

    /// What happened, in order.
    pub(crate) async fn events(&self) -> Vec<Value> {
        self.rows("relay_events", "ORDER BY id", None).await
    }

    /// Every try to tell them, in order.
    pub(crate) async fn attempts(&self) -> Vec<Value> {
        self.rows("relay_attempts", "ORDER BY id", None).await
    }

    /// The kinds of the audit trail's rows, in order.
    pub(crate) async fn log_types(&self) -> Vec<String> {
        self.logs()
            .await
            .iter()
            .map(|log| log["event_type"].as_str().expect("a text").to_owned())
            .collect()
    }

    /// Both tables, whole: to see that nothing has changed.
    pub(crate) async fn everything(&self) -> Vec<Value> {
        let mut rows = self
            .rows("cloudflare_images", "ORDER BY cloudflare_id", None)
            .await;
        rows.extend(self.logs().await);
        rows
    }

    /// One number.
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

    /// The first column of every row, as text.
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

    /// The same database once more, on Postgres, for a second replica.
    pub(crate) fn for_a_replica(&self) -> Self {
        assert!(self.is_postgres(), "SQLite has one service");
        Self {
            url: self.url.clone(),
            _folder: None,
            cluster: None,
        }
    }

    /// Holds a lock in Postgres, as another program may, by what this SQL does in a transaction.
    pub(crate) async fn hold_lock(&self, sql: &str) -> Lock {
        let mut connection = PgConnection::connect(&self.url).await.expect("it answers");
        connection
            .execute(AssertSqlSafe(format!("BEGIN; {sql}")))
            .await
            .expect("a lock");
        Lock(Connected::Postgres(connection))
    }

    /// Keeps everybody from changing this image: on Postgres its row is locked, on SQLite the whole file.
    pub(crate) async fn hold_image(&self, id: &str) -> Lock {
        match self.connect().await {
            Connected::Postgres(_) => {
                self.hold_lock(&format!(
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

    /// Keeps everybody from changing anything, and on Postgres from reading it, and from looking whether the tables are up to date.
    pub(crate) async fn hold_everything(&self) -> Lock {
        match self.connect().await {
            Connected::Postgres(_) => {
                self.hold_lock("LOCK TABLE cloudflare_images, webhook_rejections, cloudflare_images_webhook_migrations").await
            }
            Connected::Sqlite(mut connection) => {
                // A writer that never rests may keep it waiting for longer than it is ready to.
                wait::until_async("a lock", async || {
                    connection.execute("BEGIN EXCLUSIVE").await.is_ok()
                })
                .await;
                Lock(Connected::Sqlite(connection))
            }
        }
    }

    /// Waits until the service is held up by a lock.
    pub(crate) async fn wait_until_somebody_waits_for_a_lock(&self) {
        wait::until_async("somebody waits for a lock", async || {
            self.waiting_for_locks().await > 0
        })
        .await;
    }

    /// How many statements wait for locks.
    pub(crate) async fn waiting_for_locks(&self) -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(waiting).await
    }

    async fn rows(&self, table: &str, rest: &str, parameter: Option<&str>) -> Vec<Value> {
        let mut rows = self.raw_rows(table, rest, parameter).await;
        rows.iter_mut().for_each(write_times_alike);
        rows
    }

    async fn raw_rows(&self, table: &str, rest: &str, parameter: Option<&str>) -> Vec<Value> {
        match self.connect().await {
            Connected::Sqlite(mut connection) => {
                let sql = format!(
                    "SELECT json_object({}) FROM {table} {rest}",
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
                    format!("SELECT to_jsonb(t)::text FROM (SELECT * FROM {table} {rest}) AS t");
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

/// An app that registers uploads.
pub(crate) struct Registrar {
    url: String,
}

impl Registrar {
    /// Registers these, those that are not there yet; or fails.
    pub(crate) async fn register(&self, ids: &[&str]) -> Result<(), sqlx::Error> {
        let places: Vec<String> = (1..=ids.len())
            .map(|number| format!("(${number})"))
            .collect();
        let sql = AssertSqlSafe(format!(
            "INSERT INTO cloudflare_images (cloudflare_id) VALUES {} ON CONFLICT DO NOTHING",
            places.join(", ")
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
    /// Lets go.
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
        .expect("a database can be made");
    let mut url = url::Url::parse(server).expect("a URL");
    url.set_path(&name);
    url.to_string()
}

/// The arguments of `json_object` for a table's columns, those that hold JSON and booleans as such.
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
            // As Postgres writes bytes.
            (_, "BLOB") => {
                format!("'{name}', iif({name} IS NULL, NULL, '\\x' || lower(hex({name})))")
            }
            (_, "boolean") => format!("'{name}', json(iif({name}, 'true', 'false'))"),
            _ => format!("'{name}', {name}"),
        }
    };
    rows.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// Each database writes times in its own way.
fn write_times_alike(row: &mut Value) {
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
