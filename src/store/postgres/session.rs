//! A session of Postgres: the pool, and the three ways to use it.

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

/// A connection that was idle for longer is pinged before it is used. So a database that came back gets fresh connections, and a
/// busy pool pays no round trip.
const MAX_IDLE_WITHOUT_PING: Duration = Duration::from_secs(1);

/// A connection that does not answer a ping within this time is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of an operation's deadline for which it waits for a row's lock. The default is 400 ms: far longer than a batch of
/// another replica takes, and shorter than the second after which Postgres looks for deadlocks and chooses a victim, which might
/// be the app. A row that an app locks for longer fails its own webhook. The others of the batch are recorded without it.
const LOCK_TIMEOUT_DIVISOR: u32 = 25;

/// Every statement of a batch looks rows up by key, whatever their number: a nested loop over an index is always the right plan.
/// By default Postgres plans each small batch anew, which costs twice what the batch does. And a plan for a table that was empty a
/// moment ago reads the whole table until it is analyzed.
const PLANNER_SETTINGS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // The few statements that must read a whole table have high estimated costs now, and would be compiled.
    ("jit", "off"),
];

/// How long the search for the cause of a pool's timeout may take.
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
    /// Held by the one caller that diagnoses a pool's timeout.
    diagnosis_permit: Semaphore,
}

impl Postgres {
    /// Makes a pool that connects when it is first used.
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
        // Without a spare connection, cached ones would leave none for readers.
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

    /// Runs an operation whose statements each commit themselves.
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

    /// Runs an operation in a transaction, commits it, and wakes the workers.
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
                    // The database has restarted since the connection was last used. Nothing was sent yet, so another connection
                    // will do. Each lost one is closed, so the loop ends.
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

    /// Does nothing: Postgres makes checkpoints by itself.
    #[expect(clippy::unused_self, reason = "SQLite's session counts here")]
    pub(super) fn count_committed(&self, _rows: usize) {}

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

    /// Replaces a pool's timeout by its cause. The pool retries until its time is up and then reports only that, so one direct
    /// attempt to connect finds the cause. One at a time: a server that is short of connections should not be asked for more.
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
                // A server that is short of connections wants it back now.
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
    // The server gives up when the service does, so that no abandoned statement runs on. It also ends the transaction of a
    // service that hangs, and frees its locks.
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
        // sqlx pings as well, but would wait for the answer for as long as TCP does.
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

/// Returns whether the connection is lost. 57P is Postgres's class for an operator's intervention: it was shut down, or is
/// starting.
fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Classifies an error by its code (Postgres's documentation, appendix A). All codes that are not listed may be about a row or a
/// value: an app's trigger can raise any of them.
fn classify(error: &(dyn DatabaseError + 'static)) -> ErrorClass {
    const SYSTEMIC: [&str; 7] = [
        "08",    // connection exception
        "25006", // read-only, as a standby is
        "28",    // invalid authorization
        "3D",    // no such database
        "53",    // insufficient resources
        "57P",   // an operator's intervention
        "58",    // a system error
    ];
    const TRANSIENT: [&str; 4] = [
        "55P03", // a lock was not available in time
        "40P01", // deadlock
        "40001", // conflict of transactions
        "57014", // cancelled statement
    ];
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
        return ErrorClass::Statement;
    };
    if TRANSIENT.contains(&error.code()) {
        ErrorClass::Transient
    } else if SYSTEMIC.iter().any(|class| error.code().starts_with(class)) {
        ErrorClass::Systemic
    } else {
        ErrorClass::Statement
    }
}
