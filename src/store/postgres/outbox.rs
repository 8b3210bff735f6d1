//! The outbox statements in the Postgres dialect.

use super::connection::Connection;
use time::OffsetDateTime;

use super::columns::{bind_micros, bind_time, column, read_count};
use crate::domain::id::CloudflareId;
use crate::store::inbox::statements::{EventStatements, InsertedEvents};
use crate::store::outbox::router::{NewDelivery, OutboxBatch};
use crate::store::outbox::{NewAttempt, Settlement};
use crate::store::session::OperationError;

impl EventStatements for Connection {
    /// Also sends the announcements, which listeners receive at the commit.
    ///
    /// A delivery is due at once. Its time is from the clock of this process, so a clock ahead of the database's would delay it.
    async fn insert_events(
        &mut self,
        batch: &OutboxBatch<'_>,
    ) -> Result<InsertedEvents, OperationError> {
        let (events, deliveries) = (&batch.events, &batch.deliveries);
        let row = sqlx::query(
            "-- outbox_insert
             WITH event AS (
                 INSERT INTO relay_events (id, event, model, image, payload, created_at)
                 SELECT UNNEST($1::text[]), UNNEST($2::text[]), UNNEST($3::text[]), UNNEST($4::text[]), UNNEST($5::text[]),
                     UNNEST($6::timestamptz[])
                 ON CONFLICT (id) DO NOTHING
                 RETURNING 1
             ), delivery AS (
                 INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, completed_at, created_at)
                 SELECT event_id, endpoint, image, status, CASE WHEN due_at IS NOT NULL THEN LEAST(due_at, now()) END, completed_at,
                     created_at
                 FROM UNNEST($7::text[], $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[],
                     $13::timestamptz[])
                     AS new (event_id, endpoint, image, status, due_at, completed_at, created_at)
                 RETURNING 1
             )
             SELECT (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM delivery) AS deliveries,
                 (SELECT count(pg_notify($14, announcement)) FROM UNNEST($15::text[]) AS announcement)",
        )
        .bind(column(events, |event| event.id.as_str()))
        .bind(column(events, |event| event.event))
        .bind(column(events, |event| event.model_label))
        .bind(column(events, |event| event.image.as_ref().map(CloudflareId::as_str)))
        .bind(column(events, |event| event.payload.as_str()))
        .bind(column(events, |event| bind_time(event.at)))
        .bind(column(deliveries, |delivery| delivery.event.id.as_str()))
        .bind(column(deliveries, |delivery| delivery.endpoint))
        .bind(column(deliveries, NewDelivery::image))
        .bind(column(deliveries, NewDelivery::status))
        .bind(column(deliveries, |delivery| delivery.due_at().map(bind_time)))
        .bind(column(deliveries, |delivery| delivery.completed_at().map(bind_time)))
        .bind(column(deliveries, |delivery| bind_time(delivery.event.at)))
        .bind(batch.channel)
        .bind(&batch.announcements)
        .fetch_one(self)
        .await?;
        Ok(InsertedEvents {
            events: read_count(&row, "events")?,
            deliveries: read_count(&row, "deliveries")?,
        })
    }

    async fn count_events(&mut self, ids: &[&str]) -> Result<u64, OperationError> {
        let row = sqlx::query(
            "-- outbox_count_events
             SELECT count(*) AS events FROM relay_events WHERE id = ANY($1)",
        )
        .bind(ids)
        .fetch_one(self)
        .await?;
        Ok(read_count(&row, "events")?)
    }
}

/// Records the results of leased deliveries. Returns the number of settled deliveries: those whose lease was not lost.
pub(super) async fn settle(
    connection: &mut Connection,
    settlements: &[Settlement],
) -> Result<usize, OperationError> {
    let attempt_number =
        |settlement: &Settlement| settlement.attempt().map(|attempt| attempt.number);
    let settled = sqlx::query(
        "-- outbox_settle
         UPDATE relay_deliveries AS delivery
         SET status = result.status, due_at = COALESCE(result.due_at, now() + result.wait * interval '1 microsecond'), lease = NULL, completed_at = result.completed_at,
             attempts = COALESCE(result.number, delivery.attempts),
             status_code = CASE WHEN result.number IS NULL THEN delivery.status_code ELSE result.status_code END,
             error = CASE WHEN result.number IS NULL THEN delivery.error ELSE result.error END,
             payload = COALESCE(result.sent, delivery.payload)
         FROM (
             SELECT UNNEST($1::bigint[]) AS id, UNNEST($2::text[]) AS lease, UNNEST($3::text[]) AS status,
                 UNNEST($4::timestamptz[]) AS due_at, UNNEST($5::timestamptz[]) AS completed_at, UNNEST($6::integer[]) AS number,
                 UNNEST($7::integer[]) AS status_code, UNNEST($8::text[]) AS error, UNNEST($9::text[]) AS sent,
                 UNNEST($10::bigint[]) AS wait
         ) AS result
         WHERE delivery.id = result.id AND delivery.lease = result.lease",
    )
    .bind(column(settlements, |settlement| settlement.delivery))
    .bind(column(settlements, |settlement| &*settlement.lease))
    .bind(column(settlements, |settlement| settlement.status().name()))
    .bind(column(settlements, manual_due_at))
    .bind(column(settlements, |settlement| settlement.completed_at().map(bind_time)))
    .bind(column(settlements, |settlement| attempt_number(settlement).map(|number| i32::try_from(number).unwrap_or(i32::MAX))))
    .bind(column(settlements, Settlement::status_code))
    .bind(column(settlements, Settlement::error))
    .bind(column(settlements, |settlement| settlement.sent_payload()))
    .bind(column(settlements, |settlement| settlement.wait().map(bind_micros)))
    .execute(connection)
    .await?
    .rows_affected();
    Ok(usize::try_from(settled).unwrap_or(usize::MAX))
}

/// Returns the time of the next attempt by a test's clock. Otherwise the database's clock decides.
fn manual_due_at(settlement: &Settlement) -> Option<OffsetDateTime> {
    let (now, wait) = (settlement.now.manual_time()?, settlement.wait()?);
    Some(bind_time(now.saturating_add(wait)))
}

/// Inserts attempts. Returns the number of new rows.
pub(super) async fn insert_attempts(
    connection: &mut Connection,
    attempts: &[(i64, &NewAttempt)],
) -> Result<u64, OperationError> {
    let inserted = sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, status_code, error)
         SELECT UNNEST($1::bigint[]), UNNEST($2::integer[]), UNNEST($3::timestamptz[]), UNNEST($4::bigint[]),
             UNNEST($5::integer[]), UNNEST($6::text[])",
    )
    .bind(column(attempts, |(delivery, _)| *delivery))
    .bind(column(attempts, |(_, attempt)| i32::try_from(attempt.number).unwrap_or(i32::MAX)))
    .bind(column(attempts, |(_, attempt)| bind_time(attempt.started_at)))
    .bind(column(attempts, |(_, attempt)| attempt.duration_ms()))
    .bind(column(attempts, |(_, attempt)| attempt.status_code.map(i32::from)))
    .bind(column(attempts, |(_, attempt)| attempt.error.as_str()))
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}
