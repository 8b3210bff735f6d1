//! Pruning of old rows, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::columns::{Backend, Connection, RETENTION_DELIVERIES_DELETE, bind_time};
use crate::store::audit_log::is_own_event;
use crate::store::error::StoreError;
use crate::store::retention::{PrunableTable, PruneMode, PruneQuery, PrunedPage, Retention};
use crate::store::session::OperationError;

/// The statements for one table. `$1` is the id before the page. `$3` is the time before which rows are old.
struct Statements {
    /// The statement that selects the id of the page's last row, and whether any of its rows is old. `$2` is the size of the
    /// page.
    page: &'static str,
    /// The statement that deletes the old rows of the page. `$2` is the id of its last row.
    delete: &'static str,
    /// The statement that counts the old rows of the page. `$2` is the id of its last row.
    count: &'static str,
}

const AUDIT_LOG: Statements = Statements {
    page: "-- retention_logs_page
           SELECT CAST(max(id) AS bigint), count(*) FILTER (WHERE timestamp < $3) > 0
           FROM (SELECT id, timestamp FROM cloudflare_image_logs WHERE id > $1 ORDER BY id LIMIT $2) AS page",
    delete: concat!(
        "-- retention_logs_delete
         DELETE FROM cloudflare_image_logs WHERE id > $1 AND id <= $2 AND timestamp < $3 AND ",
        is_own_event!(),
    ),
    count: concat!(
        "-- retention_logs_count
         SELECT count(*) FROM cloudflare_image_logs WHERE id > $1 AND id <= $2 AND timestamp < $3 AND ",
        is_own_event!(),
    ),
};

const REJECTIONS: Statements = Statements {
    page: "-- retention_rejections_page
           SELECT max(id), count(*) FILTER (WHERE coalesce(parked_at, received_at) < $3) > 0
           FROM (SELECT id, received_at, parked_at FROM webhook_rejections WHERE id > $1 ORDER BY id LIMIT $2) AS page",
    delete: "-- retention_rejections_delete
             DELETE FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
    count: "-- retention_rejections_count
            SELECT count(*) FROM webhook_rejections WHERE id > $1 AND id <= $2 AND coalesce(parked_at, received_at) < $3",
};

const DELIVERIES: Statements = Statements {
    page: "-- retention_deliveries_page
           SELECT max(id), count(*) FILTER (WHERE created_at < $3) > 0
           FROM (SELECT id, created_at FROM relay_deliveries WHERE id > $1 ORDER BY id LIMIT $2) AS page",
    delete: RETENTION_DELIVERIES_DELETE,
    count: "-- retention_deliveries_count
            SELECT count(*) FROM relay_deliveries WHERE id > $1 AND id <= $2 AND created_at < $3 AND due_at IS NULL",
};

#[async_trait]
impl Retention for Backend {
    async fn prune_page(&self, query: &PruneQuery) -> Result<Option<PrunedPage>, StoreError> {
        let statements = match query.table {
            PrunableTable::AuditLog => AUDIT_LOG,
            PrunableTable::Rejections => REJECTIONS,
            PrunableTable::Deliveries => DELIVERIES,
        };
        self.write("pruning old rows", async |connection| {
            prune_page(connection, &statements, query).await
        })
        .await
    }

    async fn last_adopted_id(&self, table: PrunableTable) -> Result<Option<i64>, StoreError> {
        self.read("reading the last adopted row", async |connection| {
            let reading = sqlx::query_scalar(
                "-- retention_last_adopted_id
                 SELECT last_id FROM cloudflare_images_webhook_adoptions WHERE table_name = $1",
            );
            Ok(reading
                .bind(table.name())
                .fetch_optional(connection)
                .await?)
        })
        .await
    }
}

async fn prune_page(
    connection: &mut Connection,
    statements: &Statements,
    query: &PruneQuery,
) -> Result<Option<PrunedPage>, OperationError> {
    let (last_id, has_old_rows): (Option<i64>, bool) = sqlx::query_as(statements.page)
        .bind(query.after)
        .bind(i64::from(query.limit))
        .bind(bind_time(query.before))
        .fetch_one(&mut *connection)
        .await?;
    let Some(last_id) = last_id else {
        return Ok(None);
    };
    let mut pruned = 0;
    if has_old_rows {
        pruned = match query.mode {
            PruneMode::Delete => sqlx::query(statements.delete)
                .bind(query.after)
                .bind(last_id)
                .bind(bind_time(query.before))
                .execute(connection)
                .await?
                .rows_affected(),
            PruneMode::Count => sqlx::query_scalar::<_, i64>(statements.count)
                .bind(query.after)
                .bind(last_id)
                .bind(bind_time(query.before))
                .fetch_one(connection)
                .await?
                .unsigned_abs(),
        };
    }
    Ok(Some(PrunedPage {
        last_id,
        has_old_rows,
        pruned,
    }))
}
