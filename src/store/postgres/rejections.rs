//! The rejection statements in the Postgres dialect.

use super::connection::Connection;

use super::columns::{bind_time, column};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::inbox::statements::{RejectionStatements, is_unapplied};
use crate::store::rejections::{NewRejection, RefusalCount};
use crate::store::session::OperationError;

/// Adds counts of refused requests to the stored counts. Returns the number of suppressed rows. The rows are sorted, so replicas
/// cannot deadlock. They are grouped, because one statement cannot update a row twice.
pub(super) async fn add_refusals(
    connection: &mut Connection,
    counts: &[RefusalCount],
) -> Result<u64, OperationError> {
    let suppressed: i64 = sqlx::query_scalar(
        "-- rejections_count
         WITH counted AS MATERIALIZED (
             SELECT minute, status, reason, scheme, network, sum(count)::bigint AS count
             FROM (
                 SELECT UNNEST($1::timestamptz[]) AS minute, UNNEST($2::text[]) AS scheme, UNNEST($3::text[]) AS network,
                     UNNEST($4::bigint[]) AS count, UNNEST($5::integer[]) AS status, UNNEST($6::text[]) AS reason
             ) AS counted
             GROUP BY minute, status, reason, scheme, network
         ), added AS (
         INSERT INTO webhook_rejections AS rejection (received_at, status, reason, scheme, client_address, count, state)
         SELECT minute, status, reason, scheme, network, counted.count, 'counted' FROM counted ORDER BY minute, reason, scheme, network
         ON CONFLICT (received_at, reason, scheme, client_address) WHERE state = 'counted'
         DO UPDATE SET count = rejection.count + excluded.count
         RETURNING 1
         )
         SELECT (SELECT count(*) FROM counted) - (SELECT count(*) FROM added)",
    )
    .bind(column(counts, |count| bind_time(count.minute)))
    .bind(column(counts, |count| count.scheme))
    .bind(column(counts, |count| count.network.as_str()))
    .bind(column(counts, |count| count.count))
    .bind(column(counts, |count| i32::from(count.reason.http_status())))
    .bind(column(counts, |count| count.reason.name()))
    .fetch_one(connection)
    .await?;
    Ok(suppressed.unsigned_abs())
}

impl RejectionStatements for Connection {
    async fn insert_rejections(
        &mut self,
        rejections: &[NewRejection],
    ) -> Result<u64, OperationError> {
        let inserted = sqlx::query(
            "-- rejections_insert
             INSERT INTO webhook_rejections
                 (received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, body, body_bytes, state, parked_at)
             SELECT UNNEST($1::timestamptz[]), UNNEST($2::integer[]), UNNEST($3::text[]), UNNEST($4::text[]), UNNEST($5::text[]),
                 UNNEST($6::text[]), UNNEST($7::text[]), UNNEST($8::text[]), UNNEST($9::bytea[]), UNNEST($10::integer[]),
                 UNNEST($11::text[]), UNNEST($12::timestamptz[])",
        )
        .bind(column(rejections, |rejection| bind_time(rejection.received_at)))
        .bind(column(rejections, |rejection| i32::from(rejection.reason.http_status())))
        .bind(column(rejections, |rejection| rejection.reason.name()))
        .bind(column(rejections, |rejection| rejection.problem.as_str()))
        .bind(column(rejections, |rejection| rejection.request_info.scheme.as_str()))
        .bind(column(rejections, |rejection| rejection.request_info.client_address.as_str()))
        .bind(column(rejections, |rejection| rejection.request_info.request_id.as_str()))
        .bind(column(rejections, |rejection| rejection.cloudflare_id.as_ref().map(CloudflareId::as_str)))
        .bind(column(rejections, |rejection| rejection.body.as_slice()))
        .bind(column(rejections, |rejection| rejection.body_bytes))
        .bind(column(rejections, |rejection| rejection.state.name()))
        .bind(column(rejections, |rejection| rejection.parked_at().map(bind_time)))
        .execute(self)
        .await?;
        Ok(inserted.rows_affected())
    }

    /// Skips locked rows, because another replica is applying them.
    async fn lock_unapplied(&mut self, ids: &[i64]) -> Result<Vec<i64>, OperationError> {
        Ok(sqlx::query_scalar(concat!(
            "-- rejections_lock_unapplied
                 SELECT id FROM webhook_rejections WHERE id = ANY($1) AND ",
            is_unapplied!(),
            " ORDER BY id FOR UPDATE SKIP LOCKED",
        ))
        .bind(ids)
        .fetch_all(self)
        .await?)
    }

    async fn mark_applied(
        &mut self,
        outcomes: &[(i64, &'static str)],
        now: Timestamp,
    ) -> Result<u64, OperationError> {
        let marked = sqlx::query(
            "-- rejections_mark_applied
             UPDATE webhook_rejections AS rejection SET state = 'applied', settled_at = $3, outcome = applied.outcome
             FROM (SELECT UNNEST($1::bigint[]) AS id, UNNEST($2::text[]) AS outcome) AS applied
             WHERE rejection.id = applied.id",
        )
        .bind(column(outcomes, |(id, _)| *id))
        .bind(column(outcomes, |(_, outcome)| *outcome))
        .bind(bind_time(now))
        .execute(self)
        .await?;
        Ok(marked.rows_affected())
    }
}
