//! The claim of due deliveries in the Postgres dialect.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::columns::bind_time;
use super::session::Postgres;
use crate::domain::event::Model;
use crate::store::error::StoreError;
use crate::store::outbox::{Claim, ExpiredLeases, LEASE_EXPIRED, LeasedDelivery};
use crate::store::session::OperationError;

/// Leases due deliveries. Skips locked rows, because another worker is leasing them. Does not wait for the disk: if a power
/// failure loses a lease, its delivery is leased again.
pub(super) async fn claim(
    backend: &Postgres,
    claim: &Claim<'_>,
) -> Result<Vec<LeasedDelivery>, StoreError> {
    let claiming = backend.write("claiming deliveries", async |connection| {
        sqlx::query(
            "-- outbox_claim
             WITH due AS MATERIALIZED (
                 SELECT id, due_at, status = 'leased' AS lease_expired FROM relay_deliveries AS delivery
                 WHERE endpoint = $1 AND due_at <= $2
                     AND NOT EXISTS (SELECT FROM relay_endpoints WHERE name = $1 AND paused_at IS NOT NULL)
                     AND (status <> 'leased' OR $7 AND id = (
                         SELECT id FROM relay_deliveries WHERE endpoint = $1 AND due_at <= $2 ORDER BY due_at, id LIMIT 1
                     ))
                     AND (NOT $3 OR NOT EXISTS (
                         SELECT FROM relay_deliveries AS earlier
                         WHERE earlier.endpoint = $1 AND earlier.image = delivery.image AND earlier.id < delivery.id
                             AND earlier.due_at IS NOT NULL
                     ))
                 ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
             ), leased AS (
                 UPDATE relay_deliveries AS delivery
                 SET status = 'leased', lease = $5, due_at = $6,
                     attempts = CASE WHEN due.lease_expired THEN delivery.attempts + 1 ELSE delivery.attempts END,
                     status_code = CASE WHEN due.lease_expired THEN NULL ELSE delivery.status_code END,
                     error = CASE WHEN due.lease_expired THEN $8 ELSE delivery.error END
                 FROM due WHERE delivery.id = due.id
                 RETURNING delivery.id, delivery.event_id, delivery.attempts, due.lease_expired, due.due_at
             ), lost AS (
                 INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, error)
                 SELECT id, attempts, due_at, 0, $8 FROM leased WHERE lease_expired
             ), redoable AS MATERIALIZED (
                 SELECT set_config('synchronous_commit', 'off', true)
             )
             SELECT leased.id, leased.event_id, leased.attempts, leased.lease_expired, event.model, event.payload
             FROM redoable CROSS JOIN leased JOIN relay_events AS event ON event.id = leased.event_id
             ORDER BY leased.id",
        )
        .bind(claim.endpoint)
        .bind(bind_time(claim.now))
        .bind(claim.ordered)
        .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
        .bind(claim.lease)
        .bind(bind_time(claim.until))
        .bind(claim.expired_leases == ExpiredLeases::One)
        .bind(LEASE_EXPIRED)
        .fetch_all(connection)
        .await?
        .iter()
        .map(read_leased)
        .collect()
    });
    claiming.await
}

fn read_leased(row: &PgRow) -> Result<LeasedDelivery, OperationError> {
    let attempts: i32 = row.try_get("attempts")?;
    Ok(LeasedDelivery {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        model: Model::from_label(row.try_get("model")?),
        attempts: u32::try_from(attempts).unwrap_or_default(),
        lease_expired: row.try_get("lease_expired")?,
        payload: row.try_get("payload")?,
    })
}
