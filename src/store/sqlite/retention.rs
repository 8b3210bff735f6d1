//! Deleting what is old, from SQLite.

use async_trait::async_trait;

use super::Sqlite;
use crate::domain::timestamp::Timestamp;
use crate::store::batch::is_of_a_webhook;
use crate::store::{Aged, Lent, Page, Pruning, Retention, StoreError, within};

#[async_trait]
impl Retention for Sqlite {
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
                 SELECT max(id), max(timestamp < $3) FROM (SELECT id, timestamp FROM cloudflare_image_logs WHERE id > $1 ORDER BY id LIMIT $2) AS page",
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
                 SELECT max(id), max(coalesce(parked_at, received_at) < $3) FROM (SELECT id, received_at, parked_at FROM webhook_rejections WHERE id > $1 ORDER BY id LIMIT $2) AS page",
                "-- retention_rejections_delete
                 DELETE FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
                "-- retention_rejections_count
                 SELECT count(*) FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
            ),
            Aged::Deliveries => (
                "-- retention_deliveries_page
                 SELECT max(id), max(created_at < $3) FROM (SELECT id, created_at FROM relay_deliveries WHERE id > $1 ORDER BY id LIMIT $2) AS page",
                // Tries and events go along, by a trigger.
                "-- retention_deliveries_delete
                 DELETE FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL",
                "-- retention_deliveries_count
                 SELECT count(*) FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL",
            ),
        };
        within(
            &self.place,
            self.deadline,
            "looking for what is old",
            async {
                let mut lent = Lent::from(&self.writer).await?;
                let (last, has_old): (Option<i64>, Option<bool>) = sqlx::query_as(page)
                    .bind(after)
                    .bind(i64::from(limit))
                    .bind(before.to_string())
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
                                .bind(before.to_string())
                                .execute(&mut *lent.connection);
                            deleted.await?.rows_affected()
                        }
                        Pruning::Count => {
                            let counted = sqlx::query_scalar::<_, i64>(count)
                                .bind(after)
                                .bind(last)
                                .bind(before.to_string())
                                .fetch_one(&mut *lent.connection);
                            counted.await?.unsigned_abs()
                        }
                    };
                }
                let page = last.map(|last| Page { last, has_old, old });
                lent.give_back();
                Ok(page)
            },
        )
        .await
    }
}
