//! The Postgres session: the pool, and the methods `read`, `write` and `transaction`.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Semaphore;

use super::connection_cache::ConnectionCache;
use crate::store::error::{ErrorClass, StoreError};
use crate::store::inbox::record::RecordPolicy;
use crate::store::outbox::router::Wakeups;
use crate::store::session::{GuardedConnection, OperationError, OperationRunner, TransactionMode};
use crate::store::settings::Settings;

/// The idle time after which a connection is pinged before use. So connections that an outage broke are replaced, and a busy pool
/// pays no extra round trip.
const MAX_IDLE_WITHOUT_PING: Duration = Duration::from_secs(1);

/// The longest wait for the answer to a ping. A connection that does not answer is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The divisor that turns an operation's deadline into the lock timeout. With the default deadline, the lock timeout is 400 ms.
///
/// That is far longer than another replica's batch takes. It is shorter than Postgres's `deadlock_timeout` of 1 s, so Postgres
/// does not abort an app's transaction to end a deadlock. If an app locks a row for longer, only that row's webhook fails.
const LOCK_TIMEOUT_DIVISOR: u32 = 25;

/// The planner settings of each connection. Every statement of a batch finds rows by key, so a nested loop over an index is
/// always the right plan.
///
/// By default, Postgres plans each small batch again, and planning costs twice as much as the batch. If the table was recently
/// empty, the default plan also reads the whole table, until the table is analyzed.
const PLANNER_SETTINGS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // With these settings, statements that read a whole table have high estimated costs. Postgres would compile them.
    ("jit", "off"),
];

/// The longest time for diagnosing a pool timeout.
const DIAGNOSE_TIMEOUT: Duration = Duration::from_secs(1);

const BEGIN: &str = "BEGIN";
const BEGIN_WITHOUT_FSYNC: &str = "BEGIN; SET LOCAL synchronous_commit = off";

/// A Postgres database.
pub(in crate::store) struct Postgres {
    pub(super) pool: PgPool,
    cache: ConnectionCache,
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
        options: &PgConnectOptions,
        settings: &Settings,
        policy: RecordPolicy,
    ) -> Self {
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        let options = options
            .clone()
            .application_name("cloudflare-images-webhook");
        // Without a spare connection, cached connections would leave none for other operations.
        let has_spare = settings.max_connections.count() > settings.writers.count();
        let capacity = if has_spare {
            settings.writers.count()
        } else {
            0
        };
        Self {
            pool: pool(&options, settings),
            cache: ConnectionCache::new(capacity, MAX_IDLE_WITHOUT_PING),
            runner: OperationRunner {
                database: format!("{}:{}", options.get_host(), options.get_port()).into(),
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
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        self.write(action, work).await
    }

    /// Runs an operation without a transaction: each statement commits itself.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, OperationError>,
    ) -> Result<T, StoreError> {
        self.run(action, async {
            let mut guard = GuardedConnection::acquire(&self.pool).await?;
            let value = work(&mut guard.connection).await?;
            guard.release();
            Ok(value)
        })
        .await
    }

    /// Runs an operation in a transaction, commits, and wakes the workers.
    pub(super) async fn transaction<T>(
        &self,
        action: &'static str,
        mode: TransactionMode,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<(T, Wakeups), OperationError>,
    ) -> Result<T, StoreError> {
        let begin = match mode {
            TransactionMode::Recording | TransactionMode::Durable => BEGIN,
            TransactionMode::WithoutFsync => BEGIN_WITHOUT_FSYNC,
        };
        self.run(action, async {
            loop {
                let mut guard = self.connection(mode).await?;
                let mut tx = match guard.connection.begin_with(begin).await {
                    Ok(tx) => tx,
                    // The database may have restarted since the last use of this connection. No statement has run yet, so another
                    // connection is tried. Lost connections are closed, so the loop ends.
                    Err(error)
                        if mode == TransactionMode::Recording && is_connection_lost(&error) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let (value, wakeups) = work(&mut tx).await?;
                tx.commit().await?;
                wakeups.notify();
                match mode {
                    TransactionMode::Recording => self.cache.put(guard),
                    TransactionMode::Durable | TransactionMode::WithoutFsync => guard.release(),
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

    async fn connection(
        &self,
        mode: TransactionMode,
    ) -> Result<GuardedConnection<sqlx::Postgres>, sqlx::Error> {
        let cached = match mode {
            TransactionMode::Recording => self.cache.take(),
            TransactionMode::Durable | TransactionMode::WithoutFsync => None,
        };
        match cached {
            Some(connection) => Ok(connection),
            None => GuardedConnection::acquire(&self.pool).await,
        }
    }

    async fn run<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, OperationError>>,
    ) -> Result<T, StoreError> {
        match self.runner.run(action, operation).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.diagnose(error).await),
        }
    }

    /// Replaces a pool timeout by its cause. The pool retries until its timeout and reports no cause, so one direct connection
    /// attempt finds it. Only one runs at a time, because the server may be short of connections.
    pub(super) async fn diagnose(&self, error: StoreError) -> StoreError {
        let StoreError::Database {
            action,
            source: sqlx::Error::PoolTimedOut,
            ..
        } = error
        else {
            return error;
        };
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

fn pool(options: &PgConnectOptions, settings: &Settings) -> PgPool {
    let deadline = settings.timeout_secs.seconds();
    let milliseconds = |time: Duration| time.as_millis().to_string();
    // The server's timeouts equal the service's deadline, so no abandoned statement runs on. The server also ends the transaction
    // of a hanging service, and frees its locks.
    let options = options
        .clone()
        .options([
            ("statement_timeout", milliseconds(deadline)),
            (
                "idle_in_transaction_session_timeout",
                milliseconds(deadline),
            ),
            (
                "lock_timeout",
                milliseconds(deadline / LOCK_TIMEOUT_DIVISOR),
            ),
        ])
        .options(PLANNER_SETTINGS);
    PgPoolOptions::new()
        .max_connections(u32::try_from(settings.max_connections.count()).unwrap_or(u32::MAX))
        .acquire_timeout(settings.acquire_timeout_secs.seconds())
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= MAX_IDLE_WITHOUT_PING {
                    ping(connection).await?;
                }
                Ok(true)
            })
        })
        // sqlx pings too, but without a timeout.
        .after_release(|connection, _| {
            Box::pin(async move { ping(connection).await.map(|()| true) })
        })
        .connect_lazy_with(options)
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match tokio::time::timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(result) => result,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    }
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
