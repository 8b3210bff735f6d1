//! The Postgres session: the pool, and the methods `read`, `write` and `transaction`.
//!
//! In [`PoolMode::Transaction`] all three run transactions, because only a transaction keeps its server session.

use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;

use super::connection::{Connection, PoolMode};
use super::connection_cache::ConnectionCache;
use super::detected_mode::DetectedMode;
use super::pool::{
    MAX_IDLE_WITHOUT_PING, OutdatedConnections, pool, session_settings_sql, startup_options,
};
use super::pooler;
use crate::store::error::{ErrorClass, StoreError};
use crate::store::inbox::record::RecordPolicy;
use crate::store::outbox::router::Wakeups;
use crate::store::pooling::Pooling;
use crate::store::session::{OperationError, OperationRunner, TransactionMode};
use crate::store::settings::{Pooler, Settings};
use crate::store::url::PostgresUrl;
use crate::store::url::label;

/// The longest time for diagnosing a pool timeout.
const DIAGNOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A Postgres database.
pub(in crate::store) struct Postgres {
    pool: PgPool,
    cache: ConnectionCache,
    pooler: Pooler,
    mode: Arc<DetectedMode>,
    outdated: Arc<OutdatedConnections>,
    /// The settings of a transaction in [`PoolMode::Transaction`], as SQL.
    local_settings: String,
    /// The settings of the URL for a transaction of the migrations, as SQL.
    pub(super) migration_settings: Arc<str>,
    pub(super) options: PgConnectOptions,
    pub(super) runner: OperationRunner,
    pub(super) acquire_timeout: Duration,
    pub(super) policy: RecordPolicy,
    /// The permit to diagnose a pool timeout. Only one caller diagnoses at a time.
    diagnosis_permit: Semaphore,
}

impl Postgres {
    /// Creates a session. Its pool connects at the first operation.
    pub(in crate::store) fn open(
        url: &PostgresUrl,
        settings: &Settings,
        policy: RecordPolicy,
    ) -> Self {
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        let options = startup_options(url);
        let mode = Arc::new(DetectedMode::default());
        let outdated = Arc::new(OutdatedConnections::default());
        // Without a spare connection, cached connections would leave none for other operations.
        let has_spare = settings.max_connections.count() > settings.writers.count();
        let capacity = if has_spare {
            settings.writers.count()
        } else {
            0
        };
        Self {
            pool: pool(url, settings, Arc::clone(&mode), Arc::clone(&outdated)),
            pooler: match settings.pooler {
                Pooler::Auto if url.is_behind_pgbouncer => Pooler::Transaction,
                pooler => pooler,
            },
            mode,
            outdated,
            local_settings: session_settings_sql(&url.session_settings, settings, true),
            migration_settings: url.session_settings.sql(true).into(),
            cache: ConnectionCache::new(capacity, MAX_IDLE_WITHOUT_PING),
            runner: OperationRunner {
                database: label(&options).into(),
                deadline,
                classify,
            },
            options,
            acquire_timeout,
            policy,
            diagnosis_permit: Semaphore::new(1),
        }
    }

    /// Runs an operation that only reads.
    pub(super) async fn read<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        self.write(action, work).await
    }

    /// Runs an operation without a transaction of its own: each statement commits itself, except in [`PoolMode::Transaction`].
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        self.run(action, async {
            let mode = self.mode().await?;
            let mut connection = Connection::acquire(&self.pool, mode).await?;
            let value = match mode {
                PoolMode::Session => work(&mut connection).await?,
                PoolMode::Transaction => {
                    let begin = self.begin(mode, TransactionMode::Durable);
                    connection.transact(begin, work).await?
                }
            };
            connection.release();
            Ok(value)
        })
        .await
    }

    /// Runs an operation in a transaction, commits, and wakes the workers.
    pub(super) async fn transaction<T>(
        &self,
        action: &'static str,
        mode: TransactionMode,
        work: impl AsyncFnOnce(&mut Connection) -> Result<(T, Wakeups), OperationError>,
    ) -> Result<T, StoreError> {
        self.run(action, async {
            loop {
                let mut connection = self.connection(mode).await?;
                let begin = self.begin(connection.mode(), mode);
                match connection.execute(AssertSqlSafe(begin)).await {
                    Ok(_) => {}
                    // The database may have restarted since the last use of this connection. No statement has run yet, so another
                    // connection is tried. Lost connections are closed, so the loop ends.
                    Err(error)
                        if mode == TransactionMode::Recording && is_connection_lost(&error) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
                let (value, wakeups) = work(&mut connection).await?;
                connection.execute("COMMIT").await?;
                wakeups.notify();
                match mode {
                    TransactionMode::Recording => self.cache.put(connection),
                    TransactionMode::Durable | TransactionMode::WithoutFsync => {
                        connection.release();
                    }
                }
                return Ok(value);
            }
        })
        .await
    }

    /// Does nothing, because Postgres runs its own checkpoints.
    #[expect(clippy::unused_self, reason = "the SQLite session has the same method")]
    pub(super) fn count_committed(&self, _writes: usize) {}

    /// Returns all connections to the pool, and closes it.
    pub(in crate::store) async fn close(&self) {
        self.cache.clear();
        self.pool.close().await;
    }

    async fn connection(&self, mode: TransactionMode) -> Result<Connection, sqlx::Error> {
        let cached = match mode {
            TransactionMode::Recording => self.cache.take(),
            TransactionMode::Durable | TransactionMode::WithoutFsync => None,
        };
        match cached {
            Some(connection) => Ok(connection),
            None => Connection::acquire(&self.pool, self.mode().await?).await,
        }
    }

    /// Returns the pool mode. Detects it if it is not known, unless the configuration has it.
    pub(super) async fn mode(&self) -> Result<PoolMode, sqlx::Error> {
        let detecting = self.mode.get_or_detect(async || {
            let mode = match self.pooler {
                Pooler::None | Pooler::Session => Some(PoolMode::Session),
                Pooler::Transaction => Some(PoolMode::Transaction),
                Pooler::Auto => pooler::detect(&self.options, self.acquire_timeout).await?,
            };
            match mode {
                // A connection that was opened before a successful detection has no settings.
                Some(PoolMode::Session) => self.close_connections(),
                Some(PoolMode::Transaction) => self.log_shared_sessions(),
                None => tracing::warn!(
                    "cannot detect whether a connection pooler shares server sessions; working as if it does, and checking again"
                ),
            }
            Ok(mode)
        });
        detecting.await
    }

    /// Returns whether a pooler shares server sessions.
    pub(in crate::store) async fn pooling(&self) -> Result<Pooling, StoreError> {
        let action = "detecting a connection pooler";
        self.run(action, async { Ok(self.mode().await?) }).await?;
        Ok(self.mode.pooling())
    }

    fn log_shared_sessions(&self) {
        tracing::info!(
            setting = ?self.pooler,
            "a connection pooler shares server sessions between transactions; statements are not prepared in advance"
        );
    }

    /// Closes every connection that is open now, before its next use.
    fn close_connections(&self) {
        self.outdated.mark();
        self.cache.clear();
    }

    /// Returns the error of a statement that another session had or lacked. A pooler whose mode was detected has changed it, so the
    /// next operation uses the other mode.
    fn shared_sessions_error(&self) -> StoreError {
        if self.pooler == Pooler::Auto && self.mode.get() == Some(PoolMode::Session) {
            self.mode.set(PoolMode::Transaction);
            self.close_connections();
            self.log_shared_sessions();
        }
        StoreError::SessionsAreShared {
            database: self.runner.database.clone(),
        }
    }

    /// Returns the statements that begin a transaction.
    fn begin(&self, mode: PoolMode, transaction: TransactionMode) -> String {
        let local_settings = match mode {
            PoolMode::Session => "",
            PoolMode::Transaction => &self.local_settings,
        };
        let durability = match transaction {
            TransactionMode::Recording | TransactionMode::Durable => "",
            TransactionMode::WithoutFsync => "SET LOCAL synchronous_commit = off;",
        };
        format!("BEGIN;{local_settings}{durability}")
    }

    async fn run<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, StoreError> {
        match self.runner.run(action, operation).await {
            Ok(value) => Ok(value),
            Err(error) => {
                if error.is_read_only() {
                    self.close_connections();
                }
                Err(self.diagnose(error).await)
            }
        }
    }

    /// Replaces an error by its cause: a wrong pool mode, or the reason of a pool timeout. The pool retries until its timeout and reports no cause, so one direct connection
    /// attempt finds it. Only one runs at a time, because the server may be short of connections.
    pub(super) async fn diagnose(&self, error: StoreError) -> StoreError {
        let (action, is_pool_timeout) = match &error {
            StoreError::Database { action, source, .. } => {
                if is_statement_of_other_session(source) {
                    return self.shared_sessions_error();
                }
                if is_statement_mode(source) {
                    let database = self.runner.database.clone();
                    return StoreError::StatementPooling { database };
                }
                (*action, matches!(source, sqlx::Error::PoolTimedOut))
            }
            _ => return error,
        };
        if !is_pool_timeout {
            return error;
        }
        let Ok(_permit) = self.diagnosis_permit.try_acquire() else {
            return error;
        };
        let connecting = PgConnection::connect_with(&self.options);
        match tokio::time::timeout(DIAGNOSE_TIMEOUT, connecting).await {
            Ok(Err(source)) => self.runner.database_error(action, source),
            Ok(Ok(connection)) => {
                // The server may be short of connections, so close this one at once.
                drop(connection);
                error
            }
            Err(_) => error,
        }
    }
}

/// Returns whether a prepared statement was missing or already there. Its name then belongs to another session.
fn is_statement_of_other_session(error: &sqlx::Error) -> bool {
    const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| {
        [DUPLICATE_PREPARED_STATEMENT, INVALID_SQL_STATEMENT_NAME].contains(&&*code)
    })
}

/// Returns whether a pooler gives its clients a session for each statement only. Its error has no code of its own.
fn is_statement_mode(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.message().contains("statement pooling mode"))
}

/// Returns whether the connection is lost. Codes that begin with 57P mean that the server is shutting down or starting.
fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Classifies an error by its code (Postgres documentation, appendix A). Any other code may concern a single row: an app's
/// trigger can raise any code.
fn classify(error: &(dyn DatabaseError + 'static)) -> ErrorClass {
    const SYSTEMIC: [&str; 7] = [
        "08",    // connection exception
        "25006", // read-only transaction, for example on a standby
        "28",    // invalid authorization
        "3D",    // database does not exist
        "53",    // insufficient resources
        "57P",   // shutdown or start of the server
        "58",    // system error
    ];
    const TRANSIENT: [&str; 4] = [
        "55P03", // lock timeout
        "40P01", // deadlock
        "40001", // serialization failure
        "57014", // cancelled statement or statement timeout
    ];
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
        return ErrorClass::Statement;
    };
    if TRANSIENT.contains(&error.code()) {
        ErrorClass::Transient
    } else if SYSTEMIC
        .iter()
        .any(|prefix| error.code().starts_with(prefix))
    {
        ErrorClass::Systemic
    } else {
        ErrorClass::Statement
    }
}
