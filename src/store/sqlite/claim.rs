//! The claim of due deliveries in the SQLite dialect.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::columns::{bind_ids, bind_now, bind_time, json_rows, now, selected_ids};
use super::session::Sqlite;
use crate::domain::event::Model;
use crate::store::error::StoreError;
use crate::store::outbox::router::Wakeups;
use crate::store::outbox::{
    Claim, Claimed, ExpiredLeases, LEASE_EXPIRED, LeasedDelivery, POSTPONEMENT,
};
use crate::store::session::{OperationError, TransactionMode};

/// The deliveries to the endpoint `$1` that are due at `$2`. If `$3` is true, also the delivery that is due the longest, if its
/// lease expired. If `$4` is true, also if the endpoint is paused.
macro_rules! due_deliveries {
    () => {
        concat!(
            "FROM relay_deliveries AS delivery
             CROSS JOIN relay_events AS event ON event.id = delivery.event_id
             WHERE delivery.endpoint = $1 AND delivery.due_at <= ",
            now!("$2"),
            " AND ($4 OR NOT EXISTS (SELECT 1 FROM relay_endpoints WHERE name = $1 AND paused_at IS NOT NULL))
             AND (delivery.status <> 'leased' OR $3 AND delivery.id = (
                 SELECT id FROM relay_deliveries WHERE endpoint = $1 AND due_at <= ",
            now!("$2"),
            " ORDER BY due_at, id LIMIT 1
             ))"
        )
    };
}

/// Leases due deliveries. First reads without the write lock, because usually nothing is due and recording needs the lock.
pub(super) async fn claim(backend: &Sqlite, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
    const ACTION: &str = "claiming deliveries";
    let checking = backend.read(ACTION, async |connection| {
        is_any_due(connection, claim).await
    });
    if !checking.await? {
        return Ok(Claimed::default());
    }
    let claiming = backend.transaction(ACTION, TransactionMode::WithoutFsync, async |tx| {
        Ok((claim_on(tx, claim).await?, Wakeups::default()))
    });
    claiming.await
}

/// Leases due deliveries in a transaction.
pub(super) async fn claim_on(
    tx: &mut SqliteConnection,
    claim: &Claim<'_>,
) -> Result<Claimed, OperationError> {
    let seen = read_due(tx, claim).await?;
    let (blocked, mut due): (Vec<Due>, Vec<Due>) = seen.into_iter().partition(|due| due.is_blocked);
    due.truncate(claim.limit);
    let claimable = blocked.len() + due.len();
    let mut postponed = Vec::new();
    if !blocked.is_empty() {
        postponed = postpone(tx, claim, blocked).await?;
    }
    if !due.is_empty() {
        due = lease(tx, claim, due).await?;
    }
    insert_lost_attempts(tx, postponed.iter().chain(&due)).await?;
    due.sort_unstable_by_key(|due| due.delivery.id);
    Ok(Claimed {
        suppressed: claimable - postponed.len() - due.len(),
        leased: due.into_iter().map(|due| due.delivery).collect(),
        postponed: postponed.len(),
    })
}

/// A due delivery, in the state that it has after the claim.
struct Due {
    delivery: LeasedDelivery,
    /// The due time before the claim. If a lease expired, it is the end of that lease.
    was_due_at: String,
    /// Whether the claim is ordered, and the image has an earlier delivery that is not complete.
    is_blocked: bool,
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
    .bind(bind_now(claim.now))
    .bind(claim.expired_leases == ExpiredLeases::One)
    .bind(claim.ignores_pause)
    .fetch_one(connection)
    .await?)
}

async fn read_due(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
) -> Result<Vec<Due>, OperationError> {
    sqlx::query(concat!(
        "-- outbox_claim
         SELECT delivery.id, delivery.event_id, delivery.attempts, delivery.due_at, delivery.status = 'leased' AS lease_expired,
             event.model, event.payload, $5 AND EXISTS (
                 SELECT 1 FROM relay_deliveries AS earlier
                 WHERE earlier.endpoint = $1 AND earlier.image = delivery.image AND earlier.id < delivery.id
                     AND earlier.due_at IS NOT NULL
             ) AS is_blocked ",
        due_deliveries!(),
        " ORDER BY delivery.due_at, delivery.id LIMIT $6",
    ))
    .bind(claim.endpoint)
    .bind(bind_now(claim.now))
    .bind(claim.expired_leases == ExpiredLeases::One)
    .bind(claim.ignores_pause)
    .bind(claim.ordered)
    .bind(claim.max_seen())
    .fetch_all(connection)
    .await?
    .iter()
    .map(read_one)
    .collect()
}

fn read_one(row: &SqliteRow) -> Result<Due, OperationError> {
    let attempts: u32 = row.try_get("attempts")?;
    let lease_expired = row.try_get("lease_expired")?;
    Ok(Due {
        delivery: LeasedDelivery {
            id: row.try_get("id")?,
            event_id: row.try_get("event_id")?,
            model: Model::from_label(row.try_get("model")?),
            attempts: attempts.saturating_add(u32::from(lease_expired)),
            lease_expired,
            payload: row.try_get("payload")?,
        },
        was_due_at: row.try_get("due_at")?,
        is_blocked: row.try_get("is_blocked")?,
    })
}

/// Returns a row for each delivery: its id, its number of attempts, and the error of an expired lease.
fn attempt_rows(due: &[Due]) -> String {
    json_rows(due, |due| {
        let delivery = &due.delivery;
        let error = delivery.lease_expired.then_some(LEASE_EXPIRED);
        (delivery.id, delivery.attempts, error)
    })
}

/// Postpones blocked deliveries. Their leases, if they had any, expired. Returns the deliveries whose change was not suppressed.
async fn postpone(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
    blocked: Vec<Due>,
) -> Result<Vec<Due>, OperationError> {
    let due_at = bind_time(claim.now.time().saturating_add(POSTPONEMENT));
    let postponed = sqlx::query(
        "-- outbox_claim
         UPDATE relay_deliveries
         SET due_at = $2, status = CASE WHEN status = 'leased' THEN 'retrying' ELSE status END, lease = NULL,
             attempts = blocked.value ->> 1, error = COALESCE(blocked.value ->> 2, error)
         FROM jsonb_each($1) AS blocked
         WHERE relay_deliveries.id = blocked.value ->> 0",
    )
    .bind(attempt_rows(&blocked))
    .bind(&due_at)
    .execute(&mut *connection)
    .await?;
    if postponed.rows_affected() == blocked.len() as u64 {
        return Ok(blocked);
    }
    keep_written(connection, blocked, &due_at).await
}

/// Leases due deliveries. Returns the deliveries whose lease was not suppressed.
async fn lease(
    connection: &mut SqliteConnection,
    claim: &Claim<'_>,
    due: Vec<Due>,
) -> Result<Vec<Due>, OperationError> {
    let due_at = bind_time(claim.now.time().saturating_add(claim.duration));
    let leased = sqlx::query(
        "-- outbox_claim
         UPDATE relay_deliveries
         SET status = 'leased', lease = $2, due_at = $3, attempts = due.value ->> 1, error = COALESCE(due.value ->> 2, error),
             status_code = CASE WHEN due.value ->> 2 IS NULL THEN status_code END
         FROM jsonb_each($1) AS due
         WHERE relay_deliveries.id = due.value ->> 0",
    )
    .bind(attempt_rows(&due))
    .bind(claim.lease)
    .bind(&due_at)
    .execute(&mut *connection)
    .await?;
    if leased.rows_affected() == due.len() as u64 {
        return Ok(due);
    }
    keep_written(connection, due, &due_at).await
}

/// Keeps the deliveries that have this due time. A trigger suppressed the change of the others.
async fn keep_written(
    connection: &mut SqliteConnection,
    mut changed: Vec<Due>,
    due_at: &str,
) -> Result<Vec<Due>, OperationError> {
    let ids = changed.iter().map(|due| due.delivery.id);
    let written: Vec<i64> = sqlx::query_scalar(concat!(
        "-- outbox_claim
         SELECT id FROM relay_deliveries WHERE due_at = $2 AND id IN (",
        selected_ids!("$1"),
        ")",
    ))
    .bind(bind_ids(ids))
    .bind(due_at)
    .fetch_all(connection)
    .await?;
    changed.retain(|due| written.contains(&due.delivery.id));
    Ok(changed)
}

/// Inserts the attempts whose lease expired. Their start is not known, so they have the end of the lease.
async fn insert_lost_attempts(
    connection: &mut SqliteConnection,
    seen: impl Iterator<Item = &Due>,
) -> Result<(), OperationError> {
    let lost: Vec<&Due> = seen.filter(|due| due.delivery.lease_expired).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let rows = json_rows(&lost, |due| {
        (due.delivery.id, due.delivery.attempts, &due.was_due_at)
    });
    sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, error)
         SELECT value ->> 0, value ->> 1, value ->> 2, 0, $2 FROM jsonb_each($1)",
    )
    .bind(rows)
    .bind(LEASE_EXPIRED)
    .execute(connection)
    .await?;
    Ok(())
}
