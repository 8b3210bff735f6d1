//! Showing and replaying deliveries in Postgres.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Moment, Postgres};
use crate::domain::delivery::DeliveryStatus;
use crate::domain::timestamp::Timestamp;
use crate::store::outbox::{
    Attempt, Delivery, DeliveryCatalog, DeliveryFilter, EndpointState, delivery_status,
};
use crate::store::{Failure, StoreError};

/// The newest of some deliveries. One alone is found by its number: a condition that may be none would have all of them read.
macro_rules! newest {
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
            " AND ($2::text IS NULL OR endpoint = $2) AND ($3::text IS NULL OR status = $3)
                     AND ($4::timestamptz IS NULL OR created_at >= $4)
                 ORDER BY id DESC LIMIT $6"
        )
    };
}

/// Makes some deliveries due again; see `newest`.
macro_rules! replay {
    ($id:literal) => {
        concat!(
            "-- deliveries_replay
                 UPDATE relay_deliveries
                 SET status = 'pending', due_at = $5, lease = NULL, attempts = 0, payload = NULL, completed_at = NULL
                 WHERE due_at IS NULL AND ",
            $id,
            " AND ($2::text IS NULL OR endpoint = $2)
                     AND ($3::text IS NULL OR status = $3) AND ($4::timestamptz IS NULL OR created_at >= $4)"
        )
    };
}

#[async_trait]
impl DeliveryCatalog for Postgres {
    async fn find_delivery(&self, id: i64) -> Result<Option<Delivery>, StoreError> {
        let which = DeliveryFilter {
            id: Some(id),
            ..DeliveryFilter::default()
        };
        let mut found = self.deliveries(&which, 1, true).await?;
        Ok(found.pop())
    }

    async fn attempts(&self, delivery: i64, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        self.within("listing attempts", async {
            sqlx::query(
                "-- deliveries_attempts
                 SELECT number, started_at, duration_ms, status_code, error FROM relay_attempts
                 WHERE delivery_id = $1 ORDER BY id LIMIT $2",
            )
            .bind(delivery)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| {
                Ok(Attempt {
                    number: row.try_get("number")?,
                    started_at: time(row, "started_at")?.ok_or_else(missing)?,
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
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.deliveries(which, limit, false).await
    }

    async fn replay(&self, which: &DeliveryFilter, now: Timestamp) -> Result<u64, StoreError> {
        self.within("replaying deliveries", async {
            let replayed = sqlx::query(match which.id {
                Some(_) => replay!("id = $1"),
                None => replay!("$1::bigint IS NULL"),
            })
            .bind(which.id)
            .bind(which.endpoint.as_deref())
            .bind(which.status.map(DeliveryStatus::name))
            .bind(which.since.map(Timestamp::to_offset_date_time))
            .bind(now.to_offset_date_time())
            .execute(&self.pool)
            .await?;
            Ok(replayed.rows_affected())
        })
        .await
    }

    async fn endpoint_states(&self) -> Result<Vec<EndpointState>, StoreError> {
        self.within("counting deliveries", async {
            sqlx::query(
                "-- deliveries_endpoints
                 SELECT name, max(paused_at) AS paused_at, max(paused_because) AS paused_because,
                     sum(waiting)::bigint AS waiting, sum(gave_up)::bigint AS gave_up
                 FROM (
                     SELECT name, paused_at, paused_because, 0 AS waiting, 0 AS gave_up FROM relay_endpoints WHERE paused_at IS NOT NULL
                     UNION ALL
                     SELECT endpoint, NULL, '', count(*), 0 FROM relay_deliveries WHERE due_at IS NOT NULL GROUP BY endpoint
                     UNION ALL
                     SELECT endpoint, NULL, '', 0, count(*) FROM relay_deliveries WHERE status = 'gave_up' GROUP BY endpoint
                 ) AS known
                 GROUP BY name ORDER BY name",
            )
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| {
                Ok(EndpointState {
                    name: row.try_get("name")?,
                    paused_at: time(row, "paused_at")?,
                    paused_because: row.try_get("paused_because")?,
                    waiting: row.try_get("waiting")?,
                    gave_up: row.try_get("gave_up")?,
                })
            })
            .collect()
        })
        .await
    }
}

impl Postgres {
    async fn deliveries(
        &self,
        which: &DeliveryFilter,
        limit: u32,
        with_payload: bool,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.within("listing deliveries", async {
            sqlx::query(match which.id {
                Some(_) => newest!("id = $1"),
                None => newest!("$1::bigint IS NULL"),
            })
            .bind(which.id)
            .bind(which.endpoint.as_deref())
            .bind(which.status.map(DeliveryStatus::name))
            .bind(which.since.map(Timestamp::to_offset_date_time))
            .bind(with_payload)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_delivery)
            .collect()
        })
        .await
    }
}

fn read_delivery(row: &PgRow) -> Result<Delivery, Failure> {
    Ok(Delivery {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        event: row.try_get("event")?,
        model: row.try_get("model")?,
        image: row.try_get("image")?,
        endpoint: row.try_get("endpoint")?,
        status: delivery_status(row.try_get("status")?, row.try_get("id")?)?,
        status_code: row.try_get("status_code")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        due_at: time(row, "due_at")?,
        created_at: time(row, "created_at")?.ok_or_else(missing)?,
        completed_at: time(row, "completed_at")?,
        payload: row.try_get("payload")?,
    })
}

/// A time that no other program writes.
fn time(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>, sqlx::Error> {
    let moment: Option<Moment> = row.try_get(column)?;
    let time = moment.map(Moment::timestamp).transpose();
    time.map_err(|error| sqlx::Error::Decode(error.into()))
}

fn missing() -> sqlx::Error {
    sqlx::Error::Decode(sqlx::error::UnexpectedNullError.into())
}
