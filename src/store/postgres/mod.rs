//! Postgres: a pool, and the traits on it.

mod catalog;
mod deliveries;
mod inbox;
mod kept;
mod outbox;
mod rejection_catalog;
mod rejections;
mod retention;
mod schema;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::{
    PgConnectOptions, PgDatabaseError, PgPoolOptions, PgRow, PgTypeInfo, PgValueRef,
};
use sqlx::{Connection, Decode, PgConnection, PgPool, Postgres as Database, Row, Type};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use self::kept::Kept;
use super::recording::Recording;
use super::row::{StateColumns, undecodable};
use super::{Closing, Failure, Place, Settings, StoreError};
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};

/// How long a connection may have been idle before it is asked whether it still lives. A database that came back is so met
/// with fresh connections, and a busy pool pays no round trip for it.
const IDLE_BEFORE_CHECK: Duration = Duration::from_secs(1);

/// How long a connection may take to say that it lives. One that does not is closed, and another made.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// Which part of an operation's deadline a row's lock is waited for. By default that is 400 ms: far longer than a batch of another
/// replica takes, and less than the second after which Postgres looks for deadlocks and chooses a victim, which might be the app. A
/// row that an app has locked for longer fails its own webhook, and the others of its batch are recorded without it.
const LOCK_TIMEOUT_PART: u32 = 25;

/// Every statement of a batch looks rows up by their keys, whatever the number of rows: one plan is right for all times, a nested
/// loop over an index. Left to itself, Postgres makes a new plan for each small batch, which costs it twice what the batch does;
/// and what it planned for a table that was empty a moment ago reads the whole table until that has been analyzed.
const PLANNER: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // The few statements that must read a whole table look too expensive now to be run as they are.
    ("jit", "off"),
];

/// How long the search for the reason of a missing connection may take.
const EXPLANATION_DEADLINE: Duration = Duration::from_secs(1);

/// A Postgres database.
pub(super) struct Postgres {
    pool: PgPool,
    kept: Kept,
    options: PgConnectOptions,
    place: Place,
    acquire_timeout: Duration,
    deadline: Duration,
    recording: Recording,
    /// Held by the one caller that finds out why there is no connection.
    asking_why: Semaphore,
}

impl Postgres {
    /// Makes a pool that connects when it is first used.
    pub(super) fn open(
        options: &PgConnectOptions,
        settings: &Settings,
        recording: Recording,
    ) -> Self {
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        let options = options
            .clone()
            .application_name("cloudflare-images-webhook");
        // The server gives up at the same time as we do, so that no statement of ours runs on behind our back.
        // It also ends our transaction, and frees its locks, when we are frozen in the middle of one.
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let pooled = options
            .clone()
            .options([
                ("statement_timeout", milliseconds(deadline)),
                (
                    "idle_in_transaction_session_timeout",
                    milliseconds(deadline),
                ),
                ("lock_timeout", milliseconds(deadline / LOCK_TIMEOUT_PART)),
            ])
            .options(PLANNER);

        let pool = PgPoolOptions::new()
            .max_connections(u32::try_from(settings.max_connections.count()).unwrap_or(u32::MAX))
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= IDLE_BEFORE_CHECK {
                        ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            // sqlx pings as well, but would wait for the answer for as long as TCP does.
            .after_release(|connection, _| {
                Box::pin(async move { ping(connection).await.map(|()| true) })
            })
            .connect_lazy_with(pooled);

        // Whoever reads must find a connection beside those that write.
        let is_room = settings.max_connections.count() > settings.writers.count();
        let kept = Kept::new(if is_room { settings.writers.count() } else { 0 });

        let place = format!("{}:{}", options.get_host(), options.get_port()).into();
        Self {
            pool,
            kept,
            options,
            place,
            acquire_timeout,
            deadline,
            recording,
            asking_why: Semaphore::new(1),
        }
    }

    /// Gives an operation its deadline, its name, and an error that says what is wrong with the database.
    async fn within<T>(
        &self,
        action: &'static str,
        operation: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, StoreError> {
        match super::within(&self.place, self.deadline, action, operation).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// The pool tries to connect until its time is up and then says only that it is. One direct try finds out why; one at a
    /// time, so that a server which is merely short of connections is not asked for many more.
    async fn explained(&self, error: StoreError) -> StoreError {
        let StoreError::Database {
            ref place,
            action,
            source: sqlx::Error::PoolTimedOut,
        } = error
        else {
            return error;
        };
        let Ok(_asking) = self.asking_why.try_acquire() else {
            return error;
        };

        match tokio::time::timeout(
            EXPLANATION_DEADLINE,
            PgConnection::connect_with(&self.options),
        )
        .await
        {
            Ok(Err(source)) => StoreError::Database {
                place: place.clone(),
                action,
                source,
            },
            Ok(Ok(connection)) => {
                // It is of no further use, and a server that is short of connections wants it back now.
                drop(connection);
                error
            }
            Err(_) => error,
        }
    }
}

#[async_trait]
impl Closing for Postgres {
    async fn close(&self) {
        self.kept.give_back();
        self.pool.close().await;
    }
}

/// The columns of [`StateColumns`]. `jsonb` is asked for as text, as the shared decoding wants it.
macro_rules! state_columns {
    () => {
        "id, cloudflare_id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls,
         variants::text AS variants, cloudflare_metadata::text AS cloudflare_metadata, details_at"
    };
}
use state_columns;

fn read_state(row: &PgRow) -> Result<StateColumns, Failure> {
    Ok(StateColumns {
        id: row.try_get("id")?,
        cloudflare_id: row.try_get("cloudflare_id")?,
        status: row.try_get("status")?,
        status_at: read_time(row, "status_at")?,
        uploaded_at: read_time(row, "uploaded_at")?,
        error: row.try_get("error")?,
        filename: row.try_get("filename")?,
        creator: row.try_get("creator")?,
        require_signed_urls: row.try_get("require_signed_urls")?,
        variants: row.try_get("variants")?,
        cloudflare_metadata: row.try_get("cloudflare_metadata")?,
        details_at: row.try_get("details_at")?,
        rest: None,
    })
}

/// Whether an error would befall any other transaction too, by the class of its code (Postgres's documentation, appendix A).
/// All others may be about a row or a value of one; an app's trigger can raise whatever it likes.
pub(super) fn is_everybodys(error: &(dyn DatabaseError + 'static)) -> bool {
    const CLASSES: [&str; 7] = [
        "08",    // connection exception
        "25006", // read-only, as a standby is
        "28",    // invalid authorization
        "3D",    // no such database
        "53",    // insufficient resources
        "57P",   // an operator's intervention
        "58",    // a system error
    ];
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| CLASSES.iter().any(|class| error.code().starts_with(class)))
}

/// Whether an error passes by itself: a lock that was not to be had in time, a deadlock, a conflict of transactions, a cancelled statement.
pub(super) fn is_passing(error: &(dyn DatabaseError + 'static)) -> bool {
    const CODES: [&str; 4] = ["55P03", "40P01", "40001", "57014"];
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| CODES.contains(&error.code()))
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match tokio::time::timeout(PING_DEADLINE, connection.ping()).await {
        Ok(answered) => answered,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    }
}

/// A `timestamptz` as it is sent: microseconds since 2000. The time crate's own decoding panics on `infinity`.
struct Moment(i64);

impl Moment {
    /// 2000-01-01T00:00:00Z in microseconds since 1970.
    const EPOCH: i64 = 946_684_800_000_000;

    fn timestamp(self) -> Result<Timestamp, InvalidTimestamp> {
        Timestamp::from_unix_micros(self.0.checked_add(Self::EPOCH).ok_or(InvalidTimestamp)?)
    }
}

impl Type<Database> for Moment {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Database>>::type_info()
    }
}

impl Decode<'_, Database> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        Ok(Self(i64::from_be_bytes(bytes)))
    }
}

fn read_time(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>, Failure> {
    let Some(moment) = row.try_get::<Option<Moment>, _>(column)? else {
        return Ok(None);
    };
    let id = row.try_get("id")?;
    let time = moment
        .timestamp()
        .map_err(|error| undecodable(column, id, error.to_string()))?;
    Ok(Some(time))
}
