//! The claim of due deliveries in the Postgres dialect.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::columns::{bind_micros, bind_now, now};
use super::connection::Connection;
use super::session::Postgres;
use crate::domain::event::Model;
use crate::store::error::StoreError;
use crate::store::outbox::{
    Claim, Claimed, ExpiredLeases, LEASE_EXPIRED, LeasedDelivery, POSTPONEMENT,
};
use crate::store::session::OperationError;

/// The conditions of due deliveries to the endpoint `$1`, at the time `$2`. If `$3` is true, also the delivery that is due the
/// longest, if its lease expired. If `$8` is true, also if the endpoint is paused.
macro_rules! is_due {
    () => {
        concat!(
            "endpoint = $1 AND due_at <= ",
            now!("$2"),
            " AND ($8 OR NOT EXISTS (SELECT FROM relay_endpoints WHERE name = $1 AND paused_at IS NOT NULL))
             AND (status <> 'leased' OR $3 AND id = (
                 SELECT id FROM relay_deliveries WHERE endpoint = $1 AND due_at <= ",
            now!("$2"),
            " ORDER BY due_at, id LIMIT 1
             ))"
        )
    };
}

/// The leases on the rows of `due`, and the attempts that were lost with the leases before. `$5` is the name of the lease, and
/// `$6` its duration.
macro_rules! leased {
    () => {
        concat!(
            "leased AS (
                 UPDATE relay_deliveries AS delivery
                 SET status = 'leased', lease = $5, due_at = ",
            now!("$2"),
            " + $6 * interval '1 microsecond',
                     attempts = CASE WHEN due.lease_expired THEN delivery.attempts + 1 ELSE delivery.attempts END,
                     status_code = CASE WHEN due.lease_expired THEN NULL ELSE delivery.status_code END,
                     error = CASE WHEN due.lease_expired THEN $7 ELSE delivery.error END
                 FROM due WHERE delivery.id = due.id
                 RETURNING delivery.id, delivery.event_id, delivery.attempts, due.lease_expired, due.due_at
             ), lost AS (
                 INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, error)
                 SELECT id, attempts, due_at, 0, $7 FROM leased WHERE lease_expired
             ), redoable AS MATERIALIZED (
                 SELECT set_config('synchronous_commit', 'off', true)
             )"
        )
    };
}

/// The due deliveries that are not blocked, and the postponed ones. `$9` is the number of deliveries to look at, and `$10` the time
/// of the postponement.
///
/// A blocked delivery is postponed only under a shared lock on an earlier, incomplete delivery of its image. The settlement of the
/// earlier one then waits for this statement, and sees the postponed row. If the earlier one is locked, it may be complete soon,
/// so the blocked one stays due. This statement never waits for a lock, so it causes no deadlock.
///
/// `looked_at` makes the rows of `blocked` known before any row is leased, because a row that this statement has changed cannot
/// be locked.
macro_rules! postponed {
    () => {
        concat!(
            "seen AS MATERIALIZED (
             SELECT id, image, due_at, status, EXISTS (
                 SELECT FROM relay_deliveries AS earlier
                 WHERE earlier.endpoint = $1 AND earlier.image = delivery.image AND earlier.id < delivery.id
                     AND earlier.due_at IS NOT NULL
             ) AS is_blocked
             FROM relay_deliveries AS delivery WHERE ",
        is_due!(),
        " ORDER BY due_at, id LIMIT $9
         ), blocked AS MATERIALIZED (
             SELECT delivery.id, seen.due_at, seen.status = 'leased' AS lease_expired
             FROM seen
             JOIN relay_deliveries AS delivery
                 ON delivery.id = seen.id AND delivery.status = seen.status AND delivery.due_at = seen.due_at
             CROSS JOIN LATERAL (
                 SELECT earlier.id FROM relay_deliveries AS earlier
                 WHERE earlier.endpoint = $1 AND earlier.image = seen.image AND earlier.id < seen.id AND earlier.due_at IS NOT NULL
                 ORDER BY earlier.id LIMIT 1 FOR SHARE SKIP LOCKED
             ) AS earlier
             WHERE seen.is_blocked
             FOR UPDATE OF delivery SKIP LOCKED
         ), looked_at AS MATERIALIZED (
             SELECT count(*) AS blocked FROM blocked
         ), due AS MATERIALIZED (
             SELECT delivery.id, seen.due_at, seen.status = 'leased' AS lease_expired
             FROM looked_at
             CROSS JOIN seen
             JOIN relay_deliveries AS delivery
                 ON delivery.id = seen.id AND delivery.status = seen.status AND delivery.due_at = seen.due_at
             WHERE NOT seen.is_blocked AND looked_at.blocked >= 0
             ORDER BY seen.due_at, seen.id LIMIT $4 FOR UPDATE OF delivery SKIP LOCKED
         ), postponed AS (
             UPDATE relay_deliveries AS delivery
             SET due_at = ",
        now!("$2"),
        " + $10 * interval '1 microsecond',
                 status = CASE WHEN blocked.lease_expired THEN 'retrying' ELSE delivery.status END, lease = NULL,
                 attempts = CASE WHEN blocked.lease_expired THEN delivery.attempts + 1 ELSE delivery.attempts END,
                 error = CASE WHEN blocked.lease_expired THEN $7 ELSE delivery.error END
             FROM blocked WHERE delivery.id = blocked.id
             RETURNING delivery.id, delivery.attempts, blocked.lease_expired, blocked.due_at
         ), lost_and_postponed AS (
             INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, error)
             SELECT id, attempts, due_at, 0, $7 FROM postponed WHERE lease_expired
             )"
        )
    };
}

/// Leases due deliveries. Skips locked rows, because another worker is leasing them. Does not wait for the disk: if a power
/// failure loses a lease, its delivery is leased again.
pub(super) async fn claim(backend: &Postgres, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
    let claiming = backend.write("claiming deliveries", async |connection| {
        claim_on(connection, claim).await
    });
    claiming.await
}

/// Leases due deliveries on this connection.
pub(super) async fn claim_on(
    connection: &mut Connection,
    claim: &Claim<'_>,
) -> Result<Claimed, OperationError> {
    if claim.ordered {
        claim_in_order(connection, claim).await
    } else {
        claim_unordered(connection, claim).await
    }
}

async fn claim_unordered(
    connection: &mut Connection,
    claim: &Claim<'_>,
) -> Result<Claimed, OperationError> {
    let rows = sqlx::query(concat!(
        "-- outbox_claim
         WITH due AS MATERIALIZED (
             SELECT id, due_at, status = 'leased' AS lease_expired FROM relay_deliveries WHERE ",
        is_due!(),
        " ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
         ), ",
        leased!(),
        " SELECT leased.id, leased.event_id, leased.attempts, leased.lease_expired, event.model, event.payload,
             CAST(0 AS bigint) AS postponed, (SELECT count(*) FROM due) - (SELECT count(*) FROM leased) AS suppressed
         FROM redoable
         LEFT JOIN (leased JOIN relay_events AS event ON event.id = leased.event_id) ON true
         ORDER BY leased.id",
    ))
    .bind(claim.endpoint)
    .bind(bind_now(claim.now))
    .bind(claim.expired_leases == ExpiredLeases::One)
    .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
    .bind(claim.lease)
    .bind(bind_micros(claim.duration))
    .bind(LEASE_EXPIRED)
    .bind(claim.ignores_pause)
    .fetch_all(connection)
    .await?;
    read_claimed(&rows)
}

/// Leases the deliveries that are not blocked, and postpones the blocked ones.
async fn claim_in_order(
    connection: &mut Connection,
    claim: &Claim<'_>,
) -> Result<Claimed, OperationError> {
    let rows = sqlx::query(concat!(
        "-- outbox_claim
         WITH ",
        postponed!(),
        ", ",
        leased!(),
        " SELECT leased.id, leased.event_id, leased.attempts, leased.lease_expired, event.model, event.payload,
             (SELECT count(*) FROM postponed) AS postponed,
             (SELECT count(*) FROM due) - (SELECT count(*) FROM leased) + looked_at.blocked - (SELECT count(*) FROM postponed)
                 AS suppressed
         FROM redoable CROSS JOIN looked_at
         LEFT JOIN (leased JOIN relay_events AS event ON event.id = leased.event_id) ON true
         ORDER BY leased.id",
    ))
    .bind(claim.endpoint)
    .bind(bind_now(claim.now))
    .bind(claim.expired_leases == ExpiredLeases::One)
    .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
    .bind(claim.lease)
    .bind(bind_micros(claim.duration))
    .bind(LEASE_EXPIRED)
    .bind(claim.ignores_pause)
    .bind(claim.max_seen())
    .bind(bind_micros(POSTPONEMENT))
    .fetch_all(connection)
    .await?;
    read_claimed(&rows)
}

/// Reads the rows of a claim. Each has the numbers of postponed and of suppressed deliveries. Without a leased delivery, there is
/// one row with only these numbers.
fn read_claimed(rows: &[PgRow]) -> Result<Claimed, OperationError> {
    let mut claimed = Claimed::default();
    for row in rows {
        let (postponed, suppressed): (i64, i64) =
            (row.try_get("postponed")?, row.try_get("suppressed")?);
        claimed.postponed = usize::try_from(postponed).unwrap_or_default();
        claimed.suppressed = usize::try_from(suppressed).unwrap_or_default();
        let id: Option<i64> = row.try_get("id")?;
        if id.is_some() {
            claimed.leased.push(read_leased(row)?);
        }
    }
    Ok(claimed)
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
