//! The catalog of rejections, mounted into each backend (see [`super`]).

use async_trait::async_trait;
use sqlx::Row as _;

use super::columns::{Backend, Row, bind_time, read_time};
use crate::domain::notification::Body;
use crate::domain::outcome::RejectionReason;
use crate::domain::rejection::RejectionState;
use crate::store::error::StoreError;
use crate::store::inbox::statements::is_unapplied;
use crate::store::rejections::{
    Rejection, RejectionCatalog, RejectionFilter, StoredRequestInfo, parse_state,
};
use crate::store::session::OperationError;

/// The columns of a [`Rejection`]. `$body` replaces the column `body`.
macro_rules! rejection_columns {
    () => {
        rejection_columns!("body")
    };
    ($body:literal) => {
        concat!(
            "id, received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, ",
            $body,
            ", body_bytes, count, state, settled_at, outcome"
        )
    };
}
pub(super) use rejection_columns;

#[async_trait]
impl RejectionCatalog for Backend {
    async fn find_rejection(&self, id: i64) -> Result<Option<Rejection>, StoreError> {
        self.read("finding a rejection", async |connection| {
            let row = sqlx::query(concat!(
                "-- rejection_catalog_find
                 SELECT ",
                rejection_columns!(),
                " FROM webhook_rejections WHERE id = $1",
            ))
            .bind(id)
            .fetch_optional(connection)
            .await?;
            row.as_ref().map(read_rejection).transpose()
        })
        .await
    }

    async fn newest_rejections(
        &self,
        filter: &RejectionFilter,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError> {
        let statement = concat!(
            "-- rejection_catalog_newest
             SELECT ",
            rejection_columns!("CAST(NULL AS bytea) AS body"),
            " FROM webhook_rejections
             WHERE (CAST($1 AS text) IS NULL OR reason = $1) AND (CAST($2 AS text) IS NULL OR state = $2)
                 AND (CAST($3 AS timestamptz) IS NULL OR received_at >= $3)
             ORDER BY id DESC LIMIT $4",
        );
        list(self, statement, filter, &[limit.into()]).await
    }

    async fn unapplied_rejections(
        &self,
        filter: &RejectionFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Rejection>, StoreError> {
        let statement = concat!(
            "-- rejection_catalog_unapplied
             SELECT ",
            rejection_columns!(),
            " FROM webhook_rejections
             WHERE (CAST($1 AS text) IS NULL OR reason = $1) AND (CAST($2 AS text) IS NULL OR state = $2)
                 AND (CAST($3 AS timestamptz) IS NULL OR received_at >= $3)
                 AND id > $4 AND body IS NOT NULL AND ",
            is_unapplied!(),
            " ORDER BY id LIMIT $5",
        );
        list(self, statement, filter, &[after, limit.into()]).await
    }
}

/// Runs a statement. Its parameters are the fields of the filter, then `numbers`.
async fn list(
    backend: &Backend,
    statement: &'static str,
    filter: &RejectionFilter,
    numbers: &[i64],
) -> Result<Vec<Rejection>, StoreError> {
    let listing = backend.read("listing rejections", async |connection| {
        let mut query = sqlx::query(statement)
            .bind(filter.reason.map(RejectionReason::name))
            .bind(filter.state.map(RejectionState::name))
            .bind(filter.since.map(bind_time));
        for number in numbers {
            query = query.bind(*number);
        }
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(read_rejection).collect()
    });
    listing.await
}

pub(super) fn read_rejection(row: &Row) -> Result<Rejection, OperationError> {
    let id = row.try_get("id")?;
    let missing = || sqlx::Error::Decode(sqlx::error::UnexpectedNullError.into());
    Ok(Rejection {
        id,
        received_at: read_time(row, "received_at")?.ok_or_else(missing)?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        problem: row.try_get("problem")?,
        request_info: StoredRequestInfo {
            request_id: row.try_get("request_id")?,
            client_address: row.try_get("client_address")?,
            scheme: row.try_get("scheme")?,
        },
        cloudflare_id: row.try_get("cloudflare_id")?,
        body: row.try_get::<Option<&[u8]>, _>("body")?.map(Body::from),
        body_bytes: row.try_get("body_bytes")?,
        count: row.try_get("count")?,
        state: parse_state(row.try_get("state")?, id)?,
        settled_at: read_time(row, "settled_at")?,
        outcome: row.try_get("outcome")?,
    })
}
