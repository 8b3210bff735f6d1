//! The pool of connections, and the settings of each session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool};
use tokio::time::Instant;

use super::connection::PoolMode;
use super::detected_mode::DetectedMode;
use crate::store::settings::Settings;
use crate::store::url::{PostgresUrl, SessionSettings};

/// The idle time after which a connection is pinged before use. So connections that an outage broke are replaced, and a busy pool
/// pays no extra round trip.
pub(super) const MAX_IDLE_WITHOUT_PING: Duration = Duration::from_secs(1);

/// The longest wait for the answer to a ping. A connection that does not answer is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The divisor that turns an operation's deadline into the lock timeout. With the default deadline, the lock timeout is 400 ms.
///
/// That is far longer than another replica's batch takes. It is shorter than Postgres's `deadlock_timeout` of 1 s, so Postgres
/// does not abort an app's transaction to end a deadlock. If an app locks a row for longer, only that row's webhook fails.
const LOCK_TIMEOUT_DIVISOR: u32 = 25;

/// The planner settings of each session or transaction. Every statement of a batch finds rows by key, so a nested loop over an index is
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

/// Returns statements that set the settings of each session, until the end of the transaction if `is_local`. The settings of the
/// URL come first, because the timeouts of the service win.
///
/// The server's timeouts equal the service's deadline, so no abandoned statement runs on. The server also ends the transaction of a
/// hanging service, and frees its locks.
pub(super) fn session_settings_sql(
    url: &SessionSettings,
    settings: &Settings,
    is_local: bool,
) -> String {
    let deadline = settings.timeout_secs.seconds();
    let milliseconds = |time: Duration| time.as_millis().to_string();
    let timeouts = [
        ("statement_timeout", milliseconds(deadline)),
        (
            "idle_in_transaction_session_timeout",
            milliseconds(deadline),
        ),
        (
            "lock_timeout",
            milliseconds(deadline / LOCK_TIMEOUT_DIVISOR),
        ),
    ];
    let planner = PLANNER_SETTINGS.map(|(name, value)| (name, value.to_owned()));
    let set = if is_local { "SET LOCAL" } else { "SET" };
    let assign = |(name, value): (&str, String)| format!("{set} {name} = '{value}';");
    let own: String = timeouts.into_iter().chain(planner).map(assign).collect();
    url.sql(is_local) + &own
}

/// The connections that may lead to a server that is read-only. After a failover, a connection to the old primary stays open, and
/// its session stays read-only.
#[derive(Debug, Default)]
pub(super) struct OutdatedConnections {
    last_found: Mutex<Option<Instant>>,
}

impl OutdatedConnections {
    /// Marks every connection that is open now.
    pub(super) fn mark(&self) {
        *self
            .last_found
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn contains(&self, opened_at: Instant) -> bool {
        let last_found = *self
            .last_found
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_found.is_some_and(|last_found| opened_at <= last_found)
    }
}

/// Creates the pool. It connects at the first use.
pub(super) fn pool(
    url: &PostgresUrl,
    settings: &Settings,
    mode: Arc<DetectedMode>,
    outdated: Arc<OutdatedConnections>,
) -> PgPool {
    let set_all: Arc<str> = session_settings_sql(&url.session_settings, settings, false).into();
    PgPoolOptions::new()
        .max_connections(u32::try_from(settings.max_connections.count()).unwrap_or(u32::MAX))
        .acquire_timeout(settings.acquire_timeout_secs.seconds())
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let opened_at = Instant::now().checked_sub(meta.age);
            let is_outdated = opened_at.is_some_and(|opened_at| outdated.contains(opened_at));
            Box::pin(async move {
                if is_outdated {
                    return Ok(false);
                }
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
        // A statement, because poolers refuse startup parameters.
        .after_connect(move |connection, _| {
            let (mode, set_all) = (Arc::clone(&mode), Arc::clone(&set_all));
            Box::pin(async move {
                if mode.get() == Some(PoolMode::Session) {
                    connection.execute(AssertSqlSafe(&*set_all)).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(startup_options(url))
}

/// Returns the options of a connection, without a parameter that poolers refuse. It concerns values in text format, which nothing
/// here uses.
pub(super) fn startup_options(url: &PostgresUrl) -> PgConnectOptions {
    url.options.clone().extra_float_digits(None)
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match tokio::time::timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(result) => result,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    }
}
