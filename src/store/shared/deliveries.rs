//! The catalog of deliveries, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Row as _;

use super::columns::{
    Backend, DELIVERIES_DELETE, Row, bind_now, bind_time, now, read_time, unsent_ids,
};
use crate::clock::ClockReading;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::outbox::{
    Attempt, Changed, Delivery, DeliveryCatalog, DeliveryFilter, EndpointState, MoveTarget, Unsent,
    parse_status,
};
use crate::store::session::OperationError;

/// The statement that selects the newest deliveries. `$id` is the condition on the id: one form for a single delivery, another for
/// a list. The condition `$1 IS NULL OR id = $1` would fit both, but reads the whole table.
macro_rules! newest_deliveries {
    ($id:literal) => {
        concat!(
            "-- deliveries_newest
             SELECT * FROM (
                 SELECT delivery.id, delivery.event_id, event.event, event.model, event.image, delivery.endpoint,
                     CASE WHEN state.name IS NOT NULL AND delivery.status IN ('pending', 'retrying') THEN 'paused'
                         ELSE delivery.status END AS status,
                     delivery.status_code, delivery.error, delivery.attempts, delivery.due_at, delivery.created_at,
                     delivery.completed_at,
                     CASE WHEN $5 THEN COALESCE(delivery.payload, event.payload) ELSE '' END AS payload
                 FROM relay_deliveries AS delivery
                 JOIN relay_events AS event ON event.id = delivery.event_id
                 LEFT JOIN relay_endpoints AS state ON state.name = delivery.endpoint AND state.paused_at IS NOT NULL
             ) AS delivery
             WHERE ",
            $id,
            " AND (CAST($2 AS text) IS NULL OR endpoint = $2) AND (CAST($3 AS text) IS NULL OR status = $3)
                 AND (CAST($4 AS timestamptz) IS NULL OR created_at >= $4)
             ORDER BY id DESC LIMIT $6"
        )
    };
}

/// The condition for completed deliveries that match a filter.
macro_rules! replayable {
    ($id:literal) => {
        concat!(
            "due_at IS NULL AND ",
            $id,
            " AND (CAST($2 AS text) IS NULL OR endpoint = $2) AND (CAST($3 AS text) IS NULL OR status = $3)
                 AND (CAST($4 AS timestamptz) IS NULL OR created_at >= $4)"
        )
    };
}

/// The statement that makes completed deliveries due again. `$id` is as in `newest_deliveries`.
macro_rules! replay_deliveries {
    ($id:literal) => {
        concat!(
            "-- deliveries_replay
             UPDATE relay_deliveries
             SET status = 'pending', due_at = ",
            now!("$5"),
            ", lease = NULL, attempts = 0, payload = NULL, completed_at = NULL
             WHERE ",
            replayable!($id)
        )
    };
}

/// The statement that counts these deliveries.
macro_rules! count_replayable {
    ($id:literal) => {
        concat!(
            "-- deliveries_replayable
             SELECT count(*) FROM relay_deliveries WHERE ",
            replayable!($id)
        )
    };
}

#[async_trait]
impl DeliveryCatalog for Backend {
    async fn find_delivery(&self, id: i64) -> Result<Option<Delivery>, StoreError> {
        let filter = DeliveryFilter {
            id: Some(id),
            ..DeliveryFilter::default()
        };
        let mut found = list(self, &filter, 1, PayloadMode::Included).await?;
        Ok(found.pop())
    }

    async fn attempts(&self, delivery: i64, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        self.read("listing attempts", async |connection| {
            sqlx::query(
                "-- deliveries_attempts
                 SELECT number, started_at, duration_ms, status_code, error FROM relay_attempts
                 WHERE delivery_id = $1 ORDER BY id LIMIT $2",
            )
            .bind(delivery)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                Ok(Attempt {
                    number: row.try_get("number")?,
                    started_at: required_time(row, "started_at")?,
                    duration_ms: row.try_get("duration_ms")?,
                    status_code: row.try_get("status_code")?,
                    error: row.try_get("error")?,
                })
            })
            .collect()
        })
        .await
    }

    async fn newest_deliveries(
        &self,
        filter: &DeliveryFilter,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        list(self, filter, limit, PayloadMode::Omitted).await
    }

    async fn replay(
        &self,
        filter: &DeliveryFilter,
        now: ClockReading,
    ) -> Result<Changed, StoreError> {
        self.write("replaying deliveries", async |connection| {
            let selected: i64 = sqlx::query_scalar(match filter.id {
                Some(_) => count_replayable!("id = $1"),
                None => count_replayable!("CAST($1 AS bigint) IS NULL"),
            })
            .bind(filter.id)
            .bind(filter.endpoint.as_deref())
            .bind(filter.status.map(DeliveryStatus::name))
            .bind(filter.since.map(bind_time))
            .fetch_one(&mut *connection)
            .await?;
            let replayed = sqlx::query(match filter.id {
                Some(_) => replay_deliveries!("id = $1"),
                None => replay_deliveries!("CAST($1 AS bigint) IS NULL"),
            })
            .bind(filter.id)
            .bind(filter.endpoint.as_deref())
            .bind(filter.status.map(DeliveryStatus::name))
            .bind(filter.since.map(bind_time))
            .bind(bind_now(now))
            .execute(connection)
            .await?;
            let changed = replayed.rows_affected();
            Ok(Changed {
                changed,
                suppressed: selected.unsigned_abs().saturating_sub(changed),
            })
        })
        .await
    }

    async fn move_deliveries(&self, to: &MoveTarget, page: &Unsent) -> Result<u64, StoreError> {
        self.write("moving deliveries", async |connection| {
            let moved = sqlx::query(concat!(
                "-- deliveries_move
                 UPDATE relay_deliveries
                 SET endpoint = $5,
                     image = CASE WHEN $6 THEN (SELECT event.image FROM relay_events AS event WHERE event.id = event_id) END,
                     status = 'pending', due_at = ",
                now!("$2"),
                ", lease = NULL, attempts = 0, status_code = NULL, error = '', payload = NULL, completed_at = NULL
                 WHERE id IN (",
                unsent_ids!(),
                ") AND (status <> 'leased' OR due_at <= ",
                now!("$2"),
                ")",
            ))
            .bind(&page.endpoint)
            .bind(bind_now(page.now))
            .bind(i64::from(page.limit))
            .bind(page.with_failed)
            .bind(&to.endpoint)
            .bind(to.ordered)
            .execute(connection)
            .await?;
            Ok(moved.rows_affected())
        })
        .await
    }

    async fn delete_deliveries(&self, page: &Unsent) -> Result<u64, StoreError> {
        self.write("deleting deliveries", async |connection| {
            let deleted = sqlx::query(DELIVERIES_DELETE)
                .bind(&page.endpoint)
                .bind(bind_now(page.now))
                .bind(i64::from(page.limit))
                .bind(page.with_failed)
                .execute(connection)
                .await?;
            Ok(deleted.rows_affected())
        })
        .await
    }

    async fn count_unsent(&self, page: &Unsent) -> Result<u64, StoreError> {
        self.read("counting unsent deliveries", async |connection| {
            let counting = sqlx::query_scalar(concat!(
                "-- deliveries_count_unsent
                 SELECT count(*) FROM (",
                unsent_ids!(),
                ") AS counted",
            ))
            .bind(&page.endpoint)
            .bind(bind_now(page.now))
            .bind(i64::MAX)
            .bind(page.with_failed);
            let count: i64 = counting.fetch_one(connection).await?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    async fn waiting_deliveries(&self) -> Result<Vec<(String, i64)>, StoreError> {
        self.read("counting waiting deliveries", async |connection| {
            let waiting = sqlx::query_as(
                "-- deliveries_waiting
                 SELECT endpoint, count(*) FROM relay_deliveries WHERE due_at IS NOT NULL GROUP BY endpoint ORDER BY endpoint",
            );
            Ok(waiting.fetch_all(connection).await?)
        })
        .await
    }

    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError> {
        self.read("counting deliveries", async |connection| {
            sqlx::query(
                "-- endpoints_states
                 SELECT name, max(paused_at) AS paused_at, max(pause_reason) AS pause_reason,
                     CAST(sum(waiting) AS bigint) AS waiting, CAST(sum(failed) AS bigint) AS failed
                 FROM (
                     SELECT name, paused_at, pause_reason, 0 AS waiting, 0 AS failed FROM relay_endpoints WHERE paused_at IS NOT NULL
                     UNION ALL
                     SELECT endpoint, NULL, '', count(*), 0 FROM relay_deliveries WHERE due_at IS NOT NULL GROUP BY endpoint
                     UNION ALL
                     SELECT endpoint, NULL, '', 0, count(*) FROM relay_deliveries WHERE status = 'failed' GROUP BY endpoint
                 ) AS known
                 GROUP BY name ORDER BY name",
            )
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                Ok(EndpointState {
                    name: row.try_get("name")?,
                    paused_at: read_time(row, "paused_at")?,
                    pause_reason: row.try_get("pause_reason")?,
                    waiting: row.try_get("waiting")?,
                    failed: row.try_get("failed")?,
                })
            })
            .collect()
        })
        .await
    }
}

/// The presence of payloads in a list of deliveries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PayloadMode {
    Included,
    Omitted,
}

async fn list(
    backend: &Backend,
    filter: &DeliveryFilter,
    limit: u32,
    payload: PayloadMode,
) -> Result<Vec<Delivery>, StoreError> {
    let listing = backend.read("listing deliveries", async |connection| {
        sqlx::query(match filter.id {
            Some(_) => newest_deliveries!("id = $1"),
            None => newest_deliveries!("CAST($1 AS bigint) IS NULL"),
        })
        .bind(filter.id)
        .bind(filter.endpoint.as_deref())
        .bind(filter.status.map(DeliveryStatus::name))
        .bind(filter.since.map(bind_time))
        .bind(payload == PayloadMode::Included)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?
        .iter()
        .map(read_delivery)
        .collect()
    });
    listing.await
}

fn read_delivery(row: &Row) -> Result<Delivery, OperationError> {
    let id = row.try_get("id")?;
    Ok(Delivery {
        id,
        event_id: row.try_get("event_id")?,
        event: row.try_get("event")?,
        model: row.try_get("model")?,
        image: row.try_get("image")?,
        endpoint: row.try_get("endpoint")?,
        status: parse_status(row.try_get("status")?, id)?,
        status_code: row.try_get("status_code")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        due_at: read_time(row, "due_at")?,
        created_at: required_time(row, "created_at")?,
        completed_at: read_time(row, "completed_at")?,
        payload: row.try_get("payload")?,
    })
}

fn required_time(row: &Row, column: &str) -> Result<Timestamp, sqlx::Error> {
    let missing = || sqlx::Error::Decode(sqlx::error::UnexpectedNullError.into());
    read_time(row, column)?.ok_or_else(missing)
}
