//! The limit on calls, mounted into each backend (see [`super`]).

use std::time::Duration;

use async_trait::async_trait;

use super::columns::{Backend, bind_now_micros, now_micros};
use crate::clock::ClockReading;
use crate::store::call_limit::{CallLimit, TakenCall};
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::session::TransactionMode;

#[async_trait]
impl CallLimit for Backend {
    async fn take_call(
        &self,
        interval: Duration,
        max_ahead: Duration,
        now: ClockReading,
    ) -> Result<TakenCall, StoreError> {
        // A call that a power failure forgets does no harm, and waiting for the disk would make the others wait for the row.
        let mode = TransactionMode::WithoutFsync;
        self.transaction("taking a call of the API", mode, async |tx| {
            let taken: Option<i64> = sqlx::query_scalar(concat!(
                "-- calls_take
                 INSERT INTO cloudflare_api_calls AS calls (id, next_call) VALUES (1, ",
                now_micros!("$1"),
                " + $2)
                 ON CONFLICT (id) DO UPDATE SET next_call = $2 + CASE
                     WHEN calls.next_call < ",
                now_micros!("$1"),
                " THEN ",
                now_micros!("$1"),
                " ELSE calls.next_call END
                 WHERE calls.next_call <= ",
                now_micros!("$1"),
                " + $3
                 RETURNING next_call - $2 - ",
                now_micros!("$1"),
            ))
            .bind(bind_now_micros(now))
            .bind(micros(interval))
            .bind(micros(max_ahead))
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(ahead) = taken {
                return Ok((TakenCall::Taken(duration(ahead)), Wakeups::default()));
            }
            let ahead: i64 = sqlx::query_scalar(concat!(
                "-- calls_next
                 SELECT coalesce(max(next_call), 0) - ",
                now_micros!("$1"),
                " FROM cloudflare_api_calls",
            ))
            .bind(bind_now_micros(now))
            .fetch_one(tx)
            .await?;
            Ok((TakenCall::Refused(duration(ahead)), Wakeups::default()))
        })
        .await
    }

    async fn delay_calls(&self, ahead: Duration, now: ClockReading) -> Result<(), StoreError> {
        let mode = TransactionMode::WithoutFsync;
        self.transaction("delaying calls of the API", mode, async |tx| {
            sqlx::query(concat!(
                "-- calls_delay
                 INSERT INTO cloudflare_api_calls AS calls (id, next_call) VALUES (1, ",
                now_micros!("$1"),
                " + $2)
                 ON CONFLICT (id) DO UPDATE SET next_call = excluded.next_call WHERE calls.next_call < excluded.next_call",
            ))
            .bind(bind_now_micros(now))
            .bind(micros(ahead))
            .execute(tx)
            .await?;
            Ok(((), Wakeups::default()))
        })
        .await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(micros.max(0).unsigned_abs())
}
