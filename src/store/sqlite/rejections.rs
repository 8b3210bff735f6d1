//! The rejection statements in the SQLite dialect.

use sqlx::SqliteConnection;

use super::columns::{bind_time, json, json_rows};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::store::inbox::statements::{RejectionStatements, is_unapplied};
use crate::store::rejections::{NewRejection, RefusalCount};
use crate::store::session::OperationError;

/// Adds counts of refused requests to the stored counts. Returns the number of suppressed rows.
pub(super) async fn add_refusals(
    connection: &mut SqliteConnection,
    counts: &[RefusalCount],
) -> Result<u64, OperationError> {
    let rows = json_rows(counts, |count| {
        (
            bind_time(count.minute),
            count.reason.http_status(),
            count.reason.name(),
            count.scheme,
            &count.network,
            count.count,
        )
    });
    let added = sqlx::query(
        // Without WHERE, SQLite would parse ON as a part of a join.
        "-- rejections_count
         INSERT INTO webhook_rejections (received_at, status, reason, scheme, client_address, count, state)
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, 'counted' FROM jsonb_each($1) WHERE true
         ON CONFLICT (received_at, reason, scheme, client_address) WHERE state = 'counted'
         DO UPDATE SET count = count + excluded.count",
    )
    .bind(rows)
    .execute(connection)
    .await?;
    Ok((counts.len() as u64).saturating_sub(added.rows_affected()))
}

impl RejectionStatements for SqliteConnection {
    /// Binds the bodies in hexadecimal, because JSON has no bytes.
    async fn insert_rejections(
        &mut self,
        rejections: &[NewRejection],
    ) -> Result<u64, OperationError> {
        let rows = json_rows(rejections, |rejection| {
            (
                rejection.received_at.to_string(),
                i32::from(rejection.reason.http_status()),
                rejection.reason.name(),
                &rejection.problem,
                &rejection.request_info.scheme,
                &rejection.request_info.client_address,
                &rejection.request_info.request_id,
                rejection.cloudflare_id.as_ref().map(CloudflareId::as_str),
                hex::encode(&rejection.body),
                rejection.body_bytes,
                rejection.state.name(),
                rejection.parked_at().map(|at| at.to_string()),
            )
        });
        let inserted = sqlx::query(
            "-- rejections_insert
             INSERT INTO webhook_rejections
                 (received_at, status, reason, problem, scheme, client_address, request_id, cloudflare_id, body, body_bytes, state, parked_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
                 unhex(value ->> 8), value ->> 9, value ->> 10, value ->> 11
             FROM jsonb_each($1) ORDER BY key",
        )
        .bind(rows)
        .execute(self)
        .await?;
        Ok(inserted.rows_affected())
    }

    /// Needs no row locks, because the transaction has the write lock.
    async fn lock_unapplied(&mut self, ids: &[i64]) -> Result<Vec<i64>, OperationError> {
        Ok(sqlx::query_scalar(
            concat!(
                "-- rejections_lock_unapplied
                 SELECT id FROM webhook_rejections WHERE id IN (SELECT value FROM json_each($1)) AND ",
                is_unapplied!(),
                " ORDER BY id",
            ),
        )
        .bind(json(ids))
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
             UPDATE webhook_rejections SET state = 'applied', settled_at = $2, outcome = row.value ->> 1
             FROM jsonb_each($1) AS row WHERE webhook_rejections.id = row.value ->> 0",
        )
        .bind(json(outcomes))
        .bind(now.to_string())
        .execute(self)
        .await?;
        Ok(marked.rows_affected())
    }
}
