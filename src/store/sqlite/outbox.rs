//! The outbox statements in the SQLite dialect.

use sqlx::SqliteConnection;

use super::columns::{json, json_rows};
use crate::domain::id::CloudflareId;
use crate::store::inbox::statements::{EventStatements, InsertedEvents};
use crate::store::outbox::router::OutboxBatch;
use crate::store::outbox::{NewAttempt, Settlement};
use crate::store::session::OperationError;

impl EventStatements for SqliteConnection {
    /// Sends no announcements: SQLite has no channels, and the configuration rejects a channel.
    async fn insert_events(
        &mut self,
        batch: &OutboxBatch<'_>,
    ) -> Result<InsertedEvents, OperationError> {
        // Payloads inside the JSON of the rows would be escaped and parsed again, which would take most of the time here. So all
        // payloads are one blob, and each row has the offset and length of its payload. `substr` counts offsets from 1.
        let mut payloads = Vec::new();
        let rows = json_rows(&batch.events, |event| {
            let offset = payloads.len() + 1;
            payloads.extend_from_slice(event.payload.as_bytes());
            (
                &event.id,
                event.event,
                event.model_label,
                event.image.as_ref().map(CloudflareId::as_str),
                offset,
                event.payload.len(),
                event.at.to_string(),
            )
        });
        let events = sqlx::query(
            "-- outbox_insert
             INSERT INTO relay_events (id, event, model, image, payload, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, CAST(substr($2, value ->> 4, value ->> 5) AS text), value ->> 6
             FROM jsonb_each($1) WHERE true ORDER BY key
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(rows)
        .bind(payloads)
        .execute(&mut *self)
        .await?;
        let rows = json_rows(&batch.deliveries, |delivery| {
            let event = delivery.event;
            (
                &event.id,
                delivery.endpoint,
                delivery.image(),
                delivery.status(),
                delivery.due_at().map(|at| at.to_string()),
                delivery.completed_at().map(|at| at.to_string()),
                event.at.to_string(),
            )
        });
        let deliveries = sqlx::query(
            "-- outbox_insert
             INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, completed_at, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
             FROM jsonb_each($1) ORDER BY key",
        )
        .bind(rows)
        .execute(&mut *self)
        .await?;
        Ok(InsertedEvents {
            events: events.rows_affected(),
            deliveries: deliveries.rows_affected(),
        })
    }

    async fn count_events(&mut self, ids: &[&str]) -> Result<u64, OperationError> {
        let count: i64 = sqlx::query_scalar(
            "-- outbox_count_events
             SELECT count(*) FROM relay_events WHERE id IN (SELECT value FROM json_each($1))",
        )
        .bind(json(ids))
        .fetch_one(self)
        .await?;
        Ok(count.unsigned_abs())
    }
}

/// Records the results of leased deliveries. Returns the number of settled deliveries: those whose lease was not lost.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    settlements: &[Settlement],
) -> Result<usize, OperationError> {
    let rows = json_rows(settlements, |settlement| {
        (
            settlement.delivery,
            &*settlement.lease,
            settlement.status().name(),
            settlement.wait().map(|wait| {
                let due_at = settlement.now.time().saturating_add(wait);
                due_at.to_string()
            }),
            settlement.completed_at().map(|at| at.to_string()),
            settlement.attempt().map(|attempt| attempt.number),
            settlement.status_code(),
            settlement.error(),
            settlement.sent_payload(),
        )
    });
    let settled = sqlx::query(
        "-- outbox_settle
         UPDATE relay_deliveries
         SET status = result.value ->> 2, due_at = result.value ->> 3, lease = NULL, completed_at = result.value ->> 4,
             attempts = COALESCE(result.value ->> 5, attempts),
             status_code = CASE WHEN result.value ->> 5 IS NULL THEN status_code ELSE result.value ->> 6 END,
             error = CASE WHEN result.value ->> 5 IS NULL THEN error ELSE result.value ->> 7 END,
             payload = COALESCE(result.value ->> 8, payload)
         FROM jsonb_each($1) AS result
         WHERE relay_deliveries.id = result.value ->> 0 AND lease = result.value ->> 1",
    )
    .bind(rows)
    .execute(connection)
    .await?
    .rows_affected();
    Ok(usize::try_from(settled).unwrap_or(usize::MAX))
}

/// Inserts attempts. Returns the number of new rows.
pub(super) async fn insert_attempts(
    connection: &mut SqliteConnection,
    attempts: &[(i64, &NewAttempt)],
) -> Result<u64, OperationError> {
    let rows = json_rows(attempts, |(delivery, attempt)| {
        (
            delivery,
            attempt.number,
            attempt.started_at.to_string(),
            attempt.duration_ms(),
            attempt.status_code,
            &attempt.error,
        )
    });
    let inserted = sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, status_code, error)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each($1) ORDER BY key",
    )
    .bind(rows)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}
