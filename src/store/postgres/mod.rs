//! Postgres: a pool, and the traits on it.

mod catalog;
mod inbox;
mod schema;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgTypeInfo, PgValueRef};
use sqlx::{Connection, Decode, PgConnection, PgPool, Postgres as Database, Row, Type};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::row::{StateColumns, undecodable};
use super::{Closing, Failure, Place, Settings, StoreError};
use crate::domain::notification::UnknownImages;
use crate::domain::timestamp::{InvalidTimestamp, Timestamp};

/// How long a connection may have been idle before it is asked whether it still lives. A database that came back is so met
/// with fresh connections, and a busy pool pays no round trip for it.
const IDLE_BEFORE_CHECK: Duration = Duration::from_secs(1);

/// How long a connection may take to say that it lives. One that does not is closed, and another made.
const PING_DEADLINE: Duration = Duration::from_secs(1);

/// How long the search for the reason of a missing connection may take.
const EXPLANATION_DEADLINE: Duration = Duration::from_secs(1);

/// A Postgres database.
pub(super) struct Postgres {
    pool: PgPool,
    options: PgConnectOptions,
    place: Place,
    acquire_timeout: Duration,
    deadline: Duration,
    unknown_images: UnknownImages,
    /// Held by the one caller that finds out why there is no connection.
    asking_why: Semaphore,
}

impl Postgres {
    /// Makes a pool that connects when it is first used.
    pub(super) fn open(
        options: &PgConnectOptions,
        settings: &Settings,
        unknown_images: UnknownImages,
    ) -> Self {
        let deadline = settings.timeout_secs.seconds();
        let acquire_timeout = settings.acquire_timeout_secs.seconds();
        let options = options
            .clone()
            .application_name("cloudflare-images-webhook");
        // The server gives up at the same time as we do, so that no statement of ours runs on behind our back.
        let pooled = options
            .clone()
            .options([("statement_timeout", deadline.as_millis().to_string())]);

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

        let place = format!("{}:{}", options.get_host(), options.get_port()).into();
        Self {
            pool,
            options,
            place,
            acquire_timeout,
            deadline,
            unknown_images,
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
        self.pool.close().await;
    }
}

/// The columns of [`StateColumns`]. `jsonb` is asked for as text, as the shared decoding wants it.
macro_rules! state_columns {
    () => {
        "id, cloudflare_id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls,
         variants::text AS variants, cloudflare_metadata::text AS cloudflare_metadata, details_at::text AS details_at"
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
    })
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
