//! The outbox in Postgres.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::Postgres;
use super::inbox::column;
use crate::domain::event::Model;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::outbox::{Claim, Leased, NewAttempt, Outbox, Settlement};
use crate::store::outlets::{NewDelivery, Outgoing, notices};
use crate::store::recording::OutboxRows;
use crate::store::{Failure, Lent, StoreError};

/// Begins what may be lost when the power fails, since it is done again then: it waits for no disk.
const BEGIN_REDOABLE: &str = "BEGIN; SET LOCAL synchronous_commit = off";

impl OutboxRows for PgConnection {
    /// The last part is Postgres's alone: who listens hears it when the transaction is committed.
    async fn insert_events(&mut self, outgoing: &Outgoing<'_>) -> Result<(), Failure> {
        let (events, deliveries) = (&outgoing.events, &outgoing.deliveries);
        sqlx::query(
            "-- outbox_insert
             WITH event AS (
                 INSERT INTO relay_events (id, event, model, image, payload, created_at)
                 SELECT UNNEST($1::text[]), UNNEST($2::text[]), UNNEST($3::text[]), UNNEST($4::text[]), UNNEST($5::text[]),
                     UNNEST($6::timestamptz[])
                 ON CONFLICT (id) DO NOTHING
             ), delivery AS (
                 INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, completed_at, created_at)
                 SELECT UNNEST($7::text[]), UNNEST($8::text[]), UNNEST($9::text[]), UNNEST($10::text[]), UNNEST($11::timestamptz[]),
                     UNNEST($12::timestamptz[]), UNNEST($13::timestamptz[])
             )
             SELECT pg_notify($14, notification) FROM UNNEST($15::text[]) AS notification",
        )
        .bind(column(events, |event| event.id.as_str()))
        .bind(column(events, |event| event.event))
        .bind(column(events, |event| event.label))
        .bind(column(events, |event| event.image.as_ref().map(CloudflareId::as_str)))
        .bind(column(events, |event| event.payload.as_str()))
        .bind(column(events, |event| event.at.to_offset_date_time()))
        .bind(column(deliveries, |delivery| delivery.event.id.as_str()))
        .bind(column(deliveries, |delivery| delivery.endpoint))
        .bind(column(deliveries, NewDelivery::image))
        .bind(column(deliveries, NewDelivery::status))
        .bind(column(deliveries, |delivery| delivery.due_at().map(Timestamp::to_offset_date_time)))
        .bind(column(deliveries, |delivery| delivery.completed_at().map(Timestamp::to_offset_date_time)))
        .bind(column(deliveries, |delivery| delivery.event.at.to_offset_date_time()))
        .bind(outgoing.channel)
        .bind(&outgoing.notifications)
        .execute(self)
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Outbox for Postgres {
    /// Who comes at the same time skips what is locked: it is somebody else's in a moment. A claim that is lost when the power fails is made
    /// again, and so it waits for no disk.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError> {
        self.within("claiming deliveries", async {
            sqlx::query(
                "-- outbox_claim
                 WITH due AS MATERIALIZED (
                     SELECT id FROM relay_deliveries AS delivery
                     WHERE endpoint = $1 AND due_at <= $2
                         AND NOT EXISTS (SELECT FROM relay_endpoints WHERE name = $1 AND paused_at IS NOT NULL)
                         AND (NOT $3 OR NOT EXISTS (
                             SELECT FROM relay_deliveries AS earlier
                             WHERE earlier.endpoint = $1 AND earlier.image = delivery.image AND earlier.id < delivery.id
                                 AND earlier.due_at IS NOT NULL
                         ))
                     ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
                 ), leased AS (
                     UPDATE relay_deliveries AS delivery SET status = 'leased', lease = $5, due_at = $6
                     FROM due WHERE delivery.id = due.id
                     RETURNING delivery.id, delivery.event_id, delivery.attempts
                 ), redoable AS MATERIALIZED (
                     SELECT set_config('synchronous_commit', 'off', true)
                 )
                 SELECT leased.id, leased.event_id, leased.attempts, event.model, event.payload
                 FROM redoable CROSS JOIN leased JOIN relay_events AS event ON event.id = leased.event_id
                 ORDER BY leased.id",
            )
            .bind(claim.endpoint)
            .bind(claim.now.to_offset_date_time())
            .bind(claim.ordered)
            .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
            .bind(claim.lease)
            .bind(claim.until.to_offset_date_time())
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_leased)
            .collect()
        })
        .await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError> {
        self.within("settling deliveries", async {
            let mut lent = Lent::from(&self.pool).await?;
            let mut tx = lent.connection.begin_with(BEGIN_REDOABLE).await?;
            let settled = settle(&mut tx, settlements).await?;
            let attempts: Vec<(i64, &NewAttempt)> = settlements
                .iter()
                .filter_map(|one| Some((one.delivery, one.attempt.as_ref()?)))
                .collect();
            if !attempts.is_empty() {
                insert_attempts(&mut tx, &attempts).await?;
            }
            let (events, endpoints) = notices(settlements);
            if !events.is_empty() {
                tx.insert_events(&Outgoing::notices(&events, &endpoints))
                    .await?;
            }
            tx.commit().await?;
            lent.give_back();
            Ok(settlements.len().saturating_sub(settled))
        })
        .await
    }

    async fn pause(&self, endpoint: &str, why: &str, now: Timestamp) -> Result<(), StoreError> {
        self.within("pausing an endpoint", async {
            sqlx::query(
                "-- outbox_pause
                 INSERT INTO relay_endpoints AS endpoint (name, paused_at, paused_because) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET paused_at = $2, paused_because = $3 WHERE endpoint.paused_at IS NULL",
            )
            .bind(endpoint)
            .bind(now.to_offset_date_time())
            .bind(why)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    async fn resume(&self, endpoint: &str, because: Option<&str>) -> Result<bool, StoreError> {
        self.within("resuming an endpoint", async {
            let resumed = sqlx::query(
                "-- outbox_resume
                 UPDATE relay_endpoints SET paused_at = NULL, paused_because = '' 
                 WHERE name = $1 AND paused_at IS NOT NULL AND ($2::text IS NULL OR paused_because = $2)",
            )
            .bind(endpoint)
            .bind(because)
            .execute(&self.pool)
            .await?;
            Ok(resumed.rows_affected() > 0)
        })
        .await
    }
}

fn read_leased(row: &PgRow) -> Result<Leased, Failure> {
    let attempts: i32 = row.try_get("attempts")?;
    Ok(Leased {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        model: Model::labelled(row.try_get("model")?),
        attempts: u32::try_from(attempts).unwrap_or_default(),
        payload: row.try_get("payload")?,
    })
}

async fn settle(
    connection: &mut PgConnection,
    settlements: &[Settlement],
) -> Result<usize, Failure> {
    let attempt = |one: &Settlement| one.attempt.as_ref().map(|attempt| attempt.number);
    let settled = sqlx::query(
        "-- outbox_settle
         UPDATE relay_deliveries AS delivery
         SET status = told.status, due_at = told.due_at, lease = NULL, completed_at = told.completed_at,
             attempts = COALESCE(told.number, delivery.attempts),
             status_code = CASE WHEN told.number IS NULL THEN delivery.status_code ELSE told.status_code END,
             error = CASE WHEN told.number IS NULL THEN delivery.error ELSE told.error END,
             payload = COALESCE(told.sent, delivery.payload)
         FROM (
             SELECT UNNEST($1::bigint[]) AS id, UNNEST($2::text[]) AS lease, UNNEST($3::text[]) AS status,
                 UNNEST($4::timestamptz[]) AS due_at, UNNEST($5::timestamptz[]) AS completed_at, UNNEST($6::integer[]) AS number,
                 UNNEST($7::integer[]) AS status_code, UNNEST($8::text[]) AS error, UNNEST($9::text[]) AS sent
         ) AS told
         WHERE delivery.id = told.id AND delivery.lease = told.lease",
    )
    .bind(column(settlements, |one| one.delivery))
    .bind(column(settlements, |one| &*one.lease))
    .bind(column(settlements, |one| one.status.name()))
    .bind(column(settlements, |one| one.due_at.map(Timestamp::to_offset_date_time)))
    .bind(column(settlements, |one| one.completed_at().map(Timestamp::to_offset_date_time)))
    .bind(column(settlements, |one| attempt(one).map(|number| i32::try_from(number).unwrap_or(i32::MAX))))
    .bind(column(settlements, Settlement::status_code))
    .bind(column(settlements, Settlement::error))
    .bind(column(settlements, |one| one.sent.as_deref()))
    .execute(connection)
    .await?
    .rows_affected();
    Ok(usize::try_from(settled).unwrap_or(usize::MAX))
}

async fn insert_attempts(
    connection: &mut PgConnection,
    attempts: &[(i64, &NewAttempt)],
) -> Result<(), Failure> {
    sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, status_code, error)
         SELECT UNNEST($1::bigint[]), UNNEST($2::integer[]), UNNEST($3::timestamptz[]), UNNEST($4::bigint[]),
             UNNEST($5::integer[]), UNNEST($6::text[])",
    )
    .bind(column(attempts, |(delivery, _)| *delivery))
    .bind(column(attempts, |(_, attempt)| i32::try_from(attempt.number).unwrap_or(i32::MAX)))
    .bind(column(attempts, |(_, attempt)| attempt.started_at.to_offset_date_time()))
    .bind(column(attempts, |(_, attempt)| attempt.duration_ms()))
    .bind(column(attempts, |(_, attempt)| attempt.status_code.map(i32::from)))
    .bind(column(attempts, |(_, attempt)| attempt.error.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}
