//! Deleting what is old, from Postgres.

use async_trait::async_trait;

use super::Postgres;
use crate::domain::timestamp::Timestamp;
use crate::store::batch::is_of_a_webhook;
use crate::store::{Aged, Lent, Page, Pruning, Retention, StoreError};

#[async_trait]
impl Retention for Postgres {
    async fn prune_page(
        &self,
        aged: Aged,
        after: i64,
        before: Timestamp,
        limit: u32,
        what: Pruning,
    ) -> Result<Option<Page>, StoreError> {
        let (page, delete, count) = match aged {
            Aged::Logs => (
                "-- retention_logs_page
                 SELECT max(id), bool_or(timestamp < $3) FROM (SELECT id, timestamp FROM cloudflare_image_logs WHERE id > $1 ORDER BY id LIMIT $2) AS page",
                concat!(
                    "-- retention_logs_delete
                     DELETE FROM cloudflare_image_logs WHERE id > $1 AND id <= $2 AND timestamp < $3 AND ",
                    is_of_a_webhook!(),
                ),
                concat!(
                    "-- retention_logs_count
                     SELECT count(*) FROM cloudflare_image_logs WHERE id > $1 AND id <= $2 AND timestamp < $3 AND ",
                    is_of_a_webhook!(),
                ),
            ),
            Aged::Rejections => (
                "-- retention_rejections_page
                 SELECT max(id), bool_or(coalesce(parked_at, received_at) < $3) FROM (SELECT id, received_at, parked_at FROM webhook_rejections WHERE id > $1 ORDER BY id LIMIT $2) AS page",
                "-- retention_rejections_delete
                 DELETE FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
                "-- retention_rejections_count
                 SELECT count(*) FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
            ),
            Aged::Deliveries => (
                "-- retention_deliveries_page
                 SELECT max(id), bool_or(created_at < $3) FROM (SELECT id, created_at FROM relay_deliveries WHERE id > $1 ORDER BY id LIMIT $2) AS page",
                // Tries go along, and events of which nobody else is still to be told, or was.
                "-- retention_deliveries_delete
                 WITH old AS MATERIALIZED (
                     SELECT id, event_id FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL FOR UPDATE
                 ), tries AS (
                     DELETE FROM relay_attempts WHERE delivery_id IN (SELECT id FROM old)
                 ), events AS (
                     DELETE FROM relay_events AS event WHERE id IN (SELECT event_id FROM old) AND NOT EXISTS (
                         SELECT FROM relay_deliveries AS other WHERE other.event_id = event.id AND other.id NOT IN (SELECT id FROM old)
                     )
                 )
                 DELETE FROM relay_deliveries WHERE id IN (SELECT id FROM old)",
                "-- retention_deliveries_count
                 SELECT count(*) FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL",
            ),
        };
        self.within("looking for what is old", async {
            let mut lent = Lent::from(&self.pool).await?;
            let (last, has_old): (Option<i64>, Option<bool>) = sqlx::query_as(page)
                .bind(after)
                .bind(i64::from(limit))
                .bind(before.to_offset_date_time())
                .fetch_one(&mut *lent.connection)
                .await?;
            let has_old = has_old.unwrap_or_default();
            let mut old = 0;
            if let Some(last) = last.filter(|_| has_old) {
                old = match what {
                    Pruning::Delete => {
                        let deleted = sqlx::query(delete)
                            .bind(after)
                            .bind(last)
                            .bind(before.to_offset_date_time())
                            .execute(&mut *lent.connection);
                        deleted.await?.rows_affected()
                    }
                    Pruning::Count => {
                        let counted = sqlx::query_scalar::<_, i64>(count)
                            .bind(after)
                            .bind(last)
                            .bind(before.to_offset_date_time())
                            .fetch_one(&mut *lent.connection);
                        counted.await?.unsigned_abs()
                    }
                };
            }
            let page = last.map(|last| Page { last, has_old, old });
            lent.give_back();
            Ok(page)
        })
        .await
    }
}
