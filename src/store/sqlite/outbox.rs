//! The outbox statements in the SQLite dialect.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::columns::{bind_time, json_rows};
use super::session::Sqlite;
use crate::domain::event::Model;
use crate::domain::id::CloudflareId;
use crate::store::error::StoreError;
use crate::store::inbox::statements::EventStatements;
use crate::store::outbox::router::{OutboxBatch, Wakeups};
use crate::store::outbox::{Claim, LeasedDelivery, NewAttempt, Settlement};
use crate::store::session::{OperationError, TransactionMode};

/// The deliveries to the endpoint `$1` that are due at `$2`. If `$3` is true, only those whose image has no earlier delivery that
/// is incomplete.
macro_rules! due_deliveries {
    () => {
        "FROM relay_deliveries AS delivery
         WHERE endpoint = $1 AND due_at <= $2
             AND NOT EXISTS (SELECT 1 FROM relay_endpoints WHERE name = $1 AND paused_at IS NOT NULL)
             AND (NOT $3 OR NOT EXISTS (
                 SELECT 1 FROM relay_deliveries AS earlier
                 WHERE earlier.endpoint = $1 AND earlier.image = delivery.image AND earlier.id < delivery.id
                     AND earlier.due_at IS NOT NULL
             ))"
    };
}

/// Leases due deliveries. First reads without the write lock, because usually nothing is due and recording needs the lock.
pub(super) async fn claim(
    backend: &Sqlite,
    claim: &Claim<'_>,
) -> Result<Vec<LeasedDelivery>, StoreError> {
    const ACTION: &str = "claiming deliveries";
    let checking = backend.read(ACTION, async |connection| {
        is_any_due(connection, claim).await
    });
    if !checking.await? {
        return Ok(Vec::new());
    }
    let claiming = backend.transaction(ACTION, TransactionMode::WithoutFsync, async |tx| {
        Ok((lease_due(tx, claim).await?, Wakeups::default()))
    });
    claiming.await
}

impl EventStatements for SqliteConnection {
    /// Sends no announcements: SQLite has no channels, and the configuration rejects a channel.
    async fn insert_events(&mut self, batch: &OutboxBatch<'_>) -> Result<(), OperationError> {
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
        sqlx::query(
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
        sqlx::query(
            "-- outbox_insert
             INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, completed_at, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
             FROM jsonb_each($1) ORDER BY key",
        )
        .bind(rows)
        .execute(&mut *self)
        .await?;
        Ok(())
    }
}

async fn is_any_due(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
) -> Result<bool, OperationError> {
    Ok(sqlx::query_scalar(concat!(
        "-- outbox_claim
         SELECT EXISTS (SELECT 1 ",
        due_deliveries!(),
        ")"
    ))
    .bind(claim.endpoint)
    .bind(bind_time(claim.now))
    .bind(claim.ordered)
    .fetch_one(connection)
    .await?)
}

async fn lease_due(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
) -> Result<Vec<LeasedDelivery>, OperationError> {
    sqlx::query(concat!(
        "-- outbox_claim
         UPDATE relay_deliveries SET status = 'leased', lease = $5, due_at = $6 WHERE id IN (SELECT id ",
        due_deliveries!(),
        " ORDER BY due_at, id LIMIT $4)",
    ))
    .bind(claim.endpoint)
    .bind(bind_time(claim.now))
    .bind(claim.ordered)
    .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
    .bind(claim.lease)
    .bind(bind_time(claim.until))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "-- outbox_claim
         SELECT leased.id, leased.event_id, leased.attempts, event.model, event.payload
         FROM relay_deliveries AS leased JOIN relay_events AS event ON event.id = leased.event_id
         WHERE leased.endpoint = $1 AND leased.due_at = $3 AND leased.lease = $2
         ORDER BY leased.id",
    )
    .bind(claim.endpoint)
    .bind(claim.lease)
    .bind(bind_time(claim.until))
    .fetch_all(connection)
    .await?
    .iter()
    .map(read_leased)
    .collect()
}

fn read_leased(row: &SqliteRow) -> Result<LeasedDelivery, OperationError> {
    Ok(LeasedDelivery {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        model: Model::from_label(row.try_get("model")?),
        attempts: row.try_get("attempts")?,
        payload: row.try_get("payload")?,
    })
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
            settlement.due_at().map(|at| at.to_string()),
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

pub(super) async fn insert_attempts(
    connection: &mut SqliteConnection,
    attempts: &[(i64, &NewAttempt)],
) -> Result<(), OperationError> {
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
    sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, status_code, error)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each($1) ORDER BY key",
    )
    .bind(rows)
    .execute(connection)
    .await?;
    Ok(())
}
