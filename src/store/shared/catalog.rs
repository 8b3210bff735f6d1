//! The catalog of images, mounted into each backend (see [`super`]).

use async_trait::async_trait;

use super::columns::{Backend, CATALOG_ADD, Connection, bind_time, image_columns, read_image};
use crate::domain::event::{EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::image::{DEFAULT_UPLOAD_TIME, Image, NewImage, Status};
use crate::domain::timestamp::Timestamp;
use crate::store::catalog::{AddResult, DeleteResult, ImageCatalog, SetResult};
use crate::store::error::StoreError;
use crate::store::inbox::record::add_to_outbox;
use crate::store::inbox::statements::{ColumnSet, ImageStatements};
use crate::store::outbox::event::NewEvent;
use crate::store::outbox::router::{EventRouter, Wakeups};
use crate::store::session::{OperationError, TransactionMode, rows_suppressed};

#[async_trait]
impl ImageCatalog for Backend {
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<AddResult, StoreError> {
        let router = &self.policy.router;
        self.transaction("adding an image", TransactionMode::Durable, async |tx| {
            insert_image(tx, router, image, now).await
        })
        .await
    }

    async fn set_upload_url(
        &self,
        id: &CloudflareId,
        upload_url: &str,
        now: Timestamp,
    ) -> Result<SetResult, StoreError> {
        self.transaction("storing an upload URL", TransactionMode::Durable, async |tx| {
            let updated = sqlx::query(
                "-- catalog_set_upload_url
                 UPDATE cloudflare_images SET upload_url = $2, updated_at = $3 WHERE cloudflare_id = $1",
            )
            .bind(id.as_str())
            .bind(upload_url)
            .bind(bind_time(now))
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if updated > 0 {
                return Ok((SetResult::Set, Wakeups::default()));
            }
            let rows = tx.lock_images(&[id.as_str()], ColumnSet::State).await?;
            if rows.is_empty() {
                return Ok((SetResult::NotFound, Wakeups::default()));
            }
            Err(rows_suppressed("cloudflare_images"))
        })
        .await
    }

    async fn delete(&self, id: &CloudflareId, now: Timestamp) -> Result<DeleteResult, StoreError> {
        let router = &self.policy.router;
        self.transaction("deleting an image", TransactionMode::Durable, async |tx| {
            let is_wanted = router.wanted().contains(Model::Image, EventKind::Deleted);
            let columns = if is_wanted {
                ColumnSet::StateAndExtra
            } else {
                ColumnSet::State
            };
            // The row is read under a lock, so the event shows exactly the row that is deleted.
            let Some(image) = tx.lock_images(&[id.as_str()], columns).await?.pop() else {
                return Ok((DeleteResult::NotFound, Wakeups::default()));
            };
            let mut events = Vec::new();
            if is_wanted {
                events.push(NewEvent::image_deleted(image.decode()?.row(), now));
            }
            if tx.delete_image(id).await? == 0 {
                return Err(rows_suppressed("cloudflare_images"));
            }
            let wakeups = add_to_outbox(tx, &events, router).await?;
            Ok((DeleteResult::Deleted, wakeups))
        })
        .await
    }

    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError> {
        self.read("finding an image", async |connection| {
            let row = sqlx::query(concat!(
                "-- catalog_find
                 SELECT ",
                image_columns!(),
                " FROM cloudflare_images WHERE cloudflare_id = $1",
            ))
            .bind(id.as_str())
            .fetch_optional(connection)
            .await?;
            row.as_ref().map(read_image).transpose()
        })
        .await
    }

    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError> {
        self.read("listing images", async |connection| {
            sqlx::query(concat!(
                "-- catalog_list
                 SELECT ",
                image_columns!(),
                " FROM cloudflare_images
                 WHERE CAST($1 AS text) IS NULL OR status = $1 ORDER BY updated_at DESC, cloudflare_id LIMIT $2",
            ))
            .bind(status.map(Status::name))
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await?
            .iter()
            .map(read_image)
            .collect()
        })
        .await
    }
}

/// Inserts the row of an image that is not uploaded yet, and its event.
pub(super) async fn insert_image(
    tx: &mut Connection,
    router: &EventRouter,
    image: &NewImage,
    now: Timestamp,
) -> Result<(AddResult, Wakeups), OperationError> {
    let default_expiry = now.saturating_add(DEFAULT_UPLOAD_TIME);
    let expires_at = image.expires_at.unwrap_or(default_expiry);
    let inserted = sqlx::query(CATALOG_ADD)
        .bind(image.cloudflare_id.as_str())
        .bind(&image.filename)
        .bind(&image.creator)
        .bind(image.metadata.as_str())
        .bind(bind_time(now))
        .bind(bind_time(expires_at))
        .bind(image.require_signed_urls)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    let ids = [image.cloudflare_id.as_str()];
    if inserted == 0 {
        if tx.lock_images(&ids, ColumnSet::State).await?.is_empty() {
            return Err(rows_suppressed("cloudflare_images"));
        }
        return Ok((AddResult::Exists, Wakeups::default()));
    }
    let mut events = Vec::new();
    if router.wanted().contains(Model::Image, EventKind::Created) {
        for image in tx.lock_images(&ids, ColumnSet::StateAndExtra).await? {
            events.push(NewEvent::image_created(image.decode()?.row(), now));
        }
    }
    let wakeups = add_to_outbox(tx, &events, router).await?;
    Ok((AddResult::Added, wakeups))
}
