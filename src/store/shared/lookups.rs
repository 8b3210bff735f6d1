//! The queue of lookups, mounted into each backend (see [`super`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;

use super::columns::{
    Backend, Connection, FIRST_POSITION, Row, as_text, bind_later, bind_now, bind_texts, from_text,
    later, now, selected_texts, selected_uuids, skip_locked,
};
use super::lookup_pages::{lookup_columns, queue_page, read_lookup, read_page, read_waiting};
use crate::clock::ClockReading;
use crate::domain::id::CloudflareId;
use crate::domain::notification::Notification;
use crate::domain::outcome::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::record::record_lookups;
use crate::store::inbox::statements::LookupStatements;
use crate::store::lookups::{
    ClaimedLookups, ImagePage, ImagePosition, Lookup, LookupClaim, LookupKey, Lookups,
};
use crate::store::outbox::router::Wakeups;
use crate::store::session::{OperationError, TransactionMode};

impl LookupStatements for Connection {
    async fn queue_lookups(&mut self, ids: &[&str], now: Timestamp) -> Result<(), OperationError> {
        sqlx::query(concat!(
            "-- lookups_make_due_now
             INSERT INTO cloudflare_image_lookups (image_id, due_at)
             SELECT id, ",
            now!("$1"),
            " FROM cloudflare_images WHERE cloudflare_id IN (",
            selected_texts!("$2"),
            ") ORDER BY id
             ON CONFLICT (image_id) DO UPDATE SET due_at = excluded.due_at",
        ))
        .bind(bind_now(ClockReading::System(now)))
        .bind(bind_texts(ids))
        .execute(self)
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Lookups for Backend {
    async fn queue(&self, page: &ImagePage<'_>) -> Result<Option<ImagePosition>, StoreError> {
        let mode = TransactionMode::WithoutFsync;
        self.transaction("queuing lookups", mode, async |tx| {
            let last = read_page(tx, page).await?;
            if let Some(last) = &last {
                queue_page(tx, page, last).await?;
            }
            Ok((last, Wakeups::default()))
        })
        .await
    }

    async fn make_due(&self, now: ClockReading) -> Result<(), StoreError> {
        self.write("making lookups due", async |connection| {
            sqlx::query(concat!(
                "-- lookups_make_due
                 UPDATE cloudflare_image_lookups SET due_at = ",
                now!("$1"),
                " WHERE due_at > ",
                now!("$1"),
                " AND (leased_until IS NULL OR leased_until <= ",
                now!("$1"),
                ")",
            ))
            .bind(bind_now(now))
            .execute(connection)
            .await?;
            Ok::<_, OperationError>(())
        })
        .await
    }

    async fn peek(
        &self,
        page: &ImagePage<'_>,
    ) -> Result<Option<(ImagePosition, Vec<Lookup>)>, StoreError> {
        self.read("reading waiting images", async |connection| {
            let Some(last) = read_page(connection, page).await? else {
                return Ok(None);
            };
            let lookups = read_waiting(connection, page, &last).await?;
            Ok(Some((last, lookups)))
        })
        .await
    }

    async fn find(&self, id: &CloudflareId) -> Result<Option<Lookup>, StoreError> {
        self.read("finding an image to look up", async |connection| {
            let row = sqlx::query(concat!(
                "-- lookups_find
                 SELECT ",
                lookup_columns!(),
                " FROM cloudflare_images WHERE cloudflare_id = $1",
            ))
            .bind(id.as_str())
            .fetch_optional(connection)
            .await?;
            let Some(row) = row else { return Ok(None) };
            read_lookup(LookupKey(row.try_get("image_id")?), &row)
        })
        .await
    }

    async fn claim(&self, claim: &LookupClaim) -> Result<ClaimedLookups, StoreError> {
        let mode = TransactionMode::WithoutFsync;
        self.transaction("claiming lookups", mode, async |tx| {
            let rows = claim_rows(tx, claim).await?;
            let is_full = rows.len() >= claim.limit as usize;
            let (mut lookups, mut settled) = (Vec::new(), Vec::new());
            for row in &rows {
                let key: String = row.try_get("image_id")?;
                match read_lookup(LookupKey(key.clone()), row)? {
                    Some(lookup) if !lookup.is_final() => lookups.push(lookup),
                    Some(_) | None => settled.push(key),
                }
            }
            let settled: Vec<&str> = settled.iter().map(String::as_str).collect();
            remove(tx, &settled).await?;
            let claimed = ClaimedLookups { lookups, is_full };
            Ok((claimed, Wakeups::default()))
        })
        .await
    }

    async fn record(
        &self,
        found: &[(LookupKey, Arc<Notification>)],
        now: Timestamp,
    ) -> Result<Vec<Outcome>, StoreError> {
        let mode = TransactionMode::Durable;
        self.transaction("recording lookups", mode, async |tx| {
            let reports: Vec<_> = found.iter().map(|(_, report)| Arc::clone(report)).collect();
            let recorded = record_lookups(tx, &reports, &self.policy, now).await?;
            let keys: Vec<&str> = found.iter().map(|(key, _)| key.0.as_str()).collect();
            remove(tx, &keys).await?;
            Ok(recorded)
        })
        .await
    }

    async fn postpone(
        &self,
        key: &LookupKey,
        wait: Duration,
        now: ClockReading,
    ) -> Result<(), StoreError> {
        self.write("postponing a lookup", async |connection| {
            sqlx::query(concat!(
                "-- lookups_postpone
                 UPDATE cloudflare_image_lookups SET leased_until = NULL, due_at = ",
                later!("$1", "$2"),
                " WHERE image_id = ",
                from_text!("$3", "uuid"),
            ))
            .bind(bind_now(now))
            .bind(bind_later(now, wait))
            .bind(&key.0)
            .execute(connection)
            .await?;
            Ok::<_, OperationError>(())
        })
        .await
    }
}

async fn claim_rows(tx: &mut Connection, claim: &LookupClaim) -> Result<Vec<Row>, OperationError> {
    let since = claim.since.map(|since| since.to_string());
    let since = since.as_deref().unwrap_or(FIRST_POSITION.0);
    let rows = sqlx::query(concat!(
        "-- lookups_claim
         WITH due AS MATERIALIZED (
             SELECT image_id FROM cloudflare_image_lookups
             WHERE due_at <= ",
        now!("$1"),
        " AND (leased_until IS NULL OR leased_until <= ",
        now!("$1"),
        ") AND coalesce((SELECT created_at FROM cloudflare_images AS image WHERE image.id = image_id), ",
        from_text!("$4", "timestamptz"),
        ") >= ",
        from_text!("$4", "timestamptz"),
        " ORDER BY due_at, image_id LIMIT $3",
        skip_locked!(),
        ")
         UPDATE cloudflare_image_lookups SET attempts = attempts + 1, leased_until = ",
        later!("$1", "$2"),
        " WHERE image_id IN (SELECT image_id FROM due)
         RETURNING ",
        as_text!("image_id"),
        " AS image_id, attempts,
             (SELECT cloudflare_id FROM cloudflare_images AS image WHERE image.id = image_id) AS cloudflare_id,
             (SELECT status FROM cloudflare_images AS image WHERE image.id = image_id) AS status,
             (SELECT expires_at FROM cloudflare_images AS image WHERE image.id = image_id) AS expires_at",
    ))
    .bind(bind_now(claim.now))
    .bind(bind_later(claim.now, claim.lease))
    .bind(i64::from(claim.limit))
    .bind(since)
    .fetch_all(tx)
    .await?;
    Ok(rows)
}

async fn remove(tx: &mut Connection, keys: &[&str]) -> Result<(), OperationError> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        "-- lookups_remove
         DELETE FROM cloudflare_image_lookups WHERE image_id IN (",
        selected_uuids!("$1"),
        ")",
    ))
    .bind(bind_texts(keys))
    .execute(tx)
    .await?;
    Ok(())
}
