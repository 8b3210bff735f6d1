//! The outbox in SQLite.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Executor, Row, SqliteConnection};

use super::Sqlite;
use super::inbox::json;
use crate::domain::event::Model;
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::outbox::{Claim, Leased, NewAttempt, Outbox, Settlement};
use crate::store::outlets::{Outgoing, notices};
use crate::store::recording::OutboxRows;
use crate::store::{Failure, Lent, StoreError, within};

/// Begins what may be lost when the power fails, since it is done again then: whoever claims and settles waits for no disk, nor do those
/// who record and need the writer next.
const BEGIN_REDOABLE: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

/// To be executed before the writer is given back, for everybody else's commits. What fails before closes the connection.
const WAIT_FOR_THE_DISK: &str = "PRAGMA synchronous = FULL";

/// The deliveries to an endpoint, $1, that are due at $2; in order if $3.
macro_rules! due {
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

impl OutboxRows for SqliteConnection {
    /// Nobody can listen to SQLite; the settings refuse a channel.
    async fn insert_events(&mut self, outgoing: &Outgoing<'_>) -> Result<(), Failure> {
        // A message is JSON itself: within another it would be escaped, parsed, and made whole again, which takes longer than all else here.
        let mut payloads = Vec::new();
        let told: Vec<_> = outgoing
            .events
            .iter()
            .map(|event| {
                let begin = payloads.len() + 1;
                payloads.extend_from_slice(event.payload.as_bytes());
                (
                    &event.id,
                    event.event,
                    event.label,
                    event.image.as_ref().map(CloudflareId::as_str),
                    begin,
                    event.payload.len(),
                    event.at.to_string(),
                )
            })
            .collect();
        sqlx::query(
            "-- outbox_insert
             INSERT INTO relay_events (id, event, model, image, payload, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, CAST(substr($2, value ->> 4, value ->> 5) AS text), value ->> 6
             FROM jsonb_each($1) WHERE true ORDER BY key
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(json(&told))
        .bind(payloads)
        .execute(&mut *self)
        .await?;
        let told: Vec<_> = outgoing
            .deliveries
            .iter()
            .map(|delivery| {
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
            })
            .collect();
        sqlx::query(
            "-- outbox_insert
             INSERT INTO relay_deliveries (event_id, endpoint, image, status, due_at, completed_at, created_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
             FROM jsonb_each($1) ORDER BY key",
        )
        .bind(json(&told))
        .execute(&mut *self)
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Outbox for Sqlite {
    /// Looks before it takes the write lock: mostly there is nothing, and whoever records would wait for that.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Vec<Leased>, StoreError> {
        within(&self.place, self.deadline, "claiming deliveries", async {
            let now = claim.now.to_string();
            let is_any: bool = sqlx::query_scalar(
                concat!("-- outbox_claim\nSELECT EXISTS (SELECT 1 ", due!(), ")"),
            )
            .bind(claim.endpoint)
            .bind(&now)
            .bind(claim.ordered)
            .fetch_one(&self.readers)
            .await?;
            if !is_any {
                return Ok(Vec::new());
            }
            let mut lent = Lent::from(&self.writer).await?;
            let mut tx = lent.connection.begin_with(BEGIN_REDOABLE).await?;
            sqlx::query(
                concat!(
                    "-- outbox_claim
                     UPDATE relay_deliveries SET status = 'leased', lease = $5, due_at = $6 WHERE id IN (SELECT id ",
                    due!(),
                    " ORDER BY due_at, id LIMIT $4)",
                ),
            )
            .bind(claim.endpoint)
            .bind(&now)
            .bind(claim.ordered)
            .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
            .bind(claim.lease)
            .bind(claim.until.to_string())
            .execute(&mut *tx)
            .await?;
            let leased: Result<Vec<Leased>, Failure> = sqlx::query(
                "-- outbox_claim
                 SELECT leased.id, leased.event_id, leased.attempts, event.model, event.payload
                 FROM relay_deliveries AS leased JOIN relay_events AS event ON event.id = leased.event_id
                 WHERE leased.endpoint = $1 AND leased.due_at = $3 AND leased.lease = $2
                 ORDER BY leased.id",
            )
            .bind(claim.endpoint)
            .bind(claim.lease)
            .bind(claim.until.to_string())
            .fetch_all(&mut *tx)
            .await?
            .iter()
            .map(read_leased)
            .collect();
            let leased = leased?;
            tx.commit().await?;
            lent.connection.execute(WAIT_FOR_THE_DISK).await?;
            lent.give_back();
            Ok(leased)
        })
        .await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<usize, StoreError> {
        self.file.check(&self.place)?;
        within(&self.place, self.deadline, "settling deliveries", async {
            let mut lent = Lent::from(&self.writer).await?;
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
            lent.connection.execute(WAIT_FOR_THE_DISK).await?;
            lent.give_back();
            self.checkpoints.count(settlements.len());
            Ok(settlements.len().saturating_sub(settled))
        })
        .await
    }

    async fn pause(&self, endpoint: &str, why: &str, now: Timestamp) -> Result<(), StoreError> {
        within(&self.place, self.deadline, "pausing an endpoint", async {
            let mut lent = Lent::from(&self.writer).await?;
            sqlx::query(
                "-- outbox_pause
                 INSERT INTO relay_endpoints (name, paused_at, paused_because) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET paused_at = $2, paused_because = $3 WHERE relay_endpoints.paused_at IS NULL",
            )
            .bind(endpoint)
            .bind(now.to_string())
            .bind(why)
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(())
        })
        .await
    }

    async fn resume(&self, endpoint: &str, because: Option<&str>) -> Result<bool, StoreError> {
        within(&self.place, self.deadline, "resuming an endpoint", async {
            let mut lent = Lent::from(&self.writer).await?;
            let resumed = sqlx::query(
                "-- outbox_resume
                 UPDATE relay_endpoints SET paused_at = NULL, paused_because = '' 
                 WHERE name = $1 AND paused_at IS NOT NULL AND ($2 IS NULL OR paused_because = $2)",
            )
            .bind(endpoint)
            .bind(because)
            .execute(&mut *lent.connection)
            .await?;
            lent.give_back();
            Ok(resumed.rows_affected() > 0)
        })
        .await
    }
}

fn read_leased(row: &SqliteRow) -> Result<Leased, Failure> {
    Ok(Leased {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        model: Model::labelled(row.try_get("model")?),
        attempts: row.try_get("attempts")?,
        payload: row.try_get("payload")?,
    })
}

async fn settle(
    connection: &mut SqliteConnection,
    settlements: &[Settlement],
) -> Result<usize, Failure> {
    let told: Vec<_> = settlements
        .iter()
        .map(|one| {
            (
                one.delivery,
                &*one.lease,
                one.status.name(),
                one.due_at.map(|at| at.to_string()),
                one.completed_at().map(|at| at.to_string()),
                one.attempt.as_ref().map(|attempt| attempt.number),
                one.status_code(),
                one.error(),
                one.sent.as_deref(),
            )
        })
        .collect();
    let settled = sqlx::query(
        "-- outbox_settle
         UPDATE relay_deliveries
         SET status = told.value ->> 2, due_at = told.value ->> 3, lease = NULL, completed_at = told.value ->> 4,
             attempts = COALESCE(told.value ->> 5, attempts),
             status_code = CASE WHEN told.value ->> 5 IS NULL THEN status_code ELSE told.value ->> 6 END,
             error = CASE WHEN told.value ->> 5 IS NULL THEN error ELSE told.value ->> 7 END,
             payload = COALESCE(told.value ->> 8, payload)
         FROM jsonb_each($1) AS told
         WHERE relay_deliveries.id = told.value ->> 0 AND lease = told.value ->> 1",
    )
    .bind(json(&told))
    .execute(connection)
    .await?
    .rows_affected();
    Ok(usize::try_from(settled).unwrap_or(usize::MAX))
}

async fn insert_attempts(
    connection: &mut SqliteConnection,
    attempts: &[(i64, &NewAttempt)],
) -> Result<(), Failure> {
    let told: Vec<_> = attempts
        .iter()
        .map(|(delivery, attempt)| {
            (
                delivery,
                attempt.number,
                attempt.started_at.to_string(),
                attempt.duration_ms(),
                attempt.status_code,
                &attempt.error,
            )
        })
        .collect();
    sqlx::query(
        "-- outbox_insert_attempts
         INSERT INTO relay_attempts (delivery_id, number, started_at, duration_ms, status_code, error)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each($1) ORDER BY key",
    )
    .bind(json(&told))
    .execute(connection)
    .await?;
    Ok(())
}
