//! Showing what was not applied, from SQLite.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::Sqlite;
use crate::domain::notification::Body;
use crate::domain::outcome::RejectionReason;
use crate::domain::rejection::RejectionState;
use crate::domain::timestamp::Timestamp;
use crate::store::rejection::{Rejection, RejectionFilter, StoredOrigin, rejection_state};
use crate::store::{Failure, RejectionCatalog, StoreError, within};

/// The columns of a [`Rejection`].
macro_rules! columns {
    () => {
        columns!("body")
    };
    ($body:literal) => {
        concat!(
            "id, received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, ",
            $body,
            ", body_bytes, count, state, settled_at, outcome"
        )
    };
}
pub(super) use columns;

#[async_trait]
impl RejectionCatalog for Sqlite {
    async fn find_rejection(&self, id: i64) -> Result<Option<Rejection>, StoreError> {
        within(&self.place, self.deadline, "finding a rejection", async {
            let row = sqlx::query(concat!(
                "-- rejection_catalog_find
                 SELECT ",
                columns!(),
                " FROM webhook_rejections WHERE id = $1",
            ))
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
            row.as_ref().map(read_rejection).transpose()
        })
        .await
    }

    async fn newest_rejections(
        &self,
        which: &RejectionFilter,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError> {
        within(&self.place, self.deadline, "listing rejections", async {
            sqlx::query(concat!(
                "-- rejection_catalog_newest
                 SELECT ",
                columns!("NULL AS body"),
                " FROM webhook_rejections
                 WHERE ($1 IS NULL OR reason = $1) AND ($2 IS NULL OR state = $2)
                     AND ($3 IS NULL OR received_at >= $3)
                 ORDER BY id DESC LIMIT $4",
            ))
            .bind(which.reason.map(RejectionReason::name))
            .bind(which.state.map(RejectionState::name))
            .bind(which.since.map(|since| since.to_string()))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(read_rejection)
            .collect()
        })
        .await
    }

    async fn unapplied_rejections(
        &self,
        which: &RejectionFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError> {
        within(&self.place, self.deadline, "listing rejections", async {
            sqlx::query(concat!(
                "-- rejection_catalog_unapplied
                 SELECT ",
                columns!(),
                " FROM webhook_rejections
                 WHERE ($1 IS NULL OR reason = $1) AND ($2 IS NULL OR state = $2)
                     AND ($3 IS NULL OR received_at >= $3)
                     AND id > $4 AND state IN ('parked', 'kept', 'failed') AND body IS NOT NULL
                 ORDER BY id LIMIT $5",
            ))
            .bind(which.reason.map(RejectionReason::name))
            .bind(which.state.map(RejectionState::name))
            .bind(which.since.map(|since| since.to_string()))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(read_rejection)
            .collect()
        })
        .await
    }
}

pub(super) fn read_rejection(row: &SqliteRow) -> Result<Rejection, Failure> {
    Ok(Rejection {
        id: row.try_get("id")?,
        received_at: timestamp(row.try_get("received_at")?)?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        problem: row.try_get("problem")?,
        origin: StoredOrigin {
            request_id: row.try_get("request_id")?,
            client_address: row.try_get("client_address")?,
            scheme: row.try_get("scheme")?,
        },
        cloudflare_id: row.try_get("cloudflare_id")?,
        body: row.try_get::<Option<&[u8]>, _>("body")?.map(Body::from),
        body_bytes: row.try_get("body_bytes")?,
        count: row.try_get("count")?,
        state: rejection_state(row.try_get("state")?, row.try_get("id")?)?,
        settled_at: row
            .try_get::<Option<&str>, _>("settled_at")?
            .map(timestamp)
            .transpose()?,
        outcome: row.try_get("outcome")?,
    })
}

fn timestamp(text: &str) -> Result<Timestamp, sqlx::Error> {
    Timestamp::parse_rfc3339(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
