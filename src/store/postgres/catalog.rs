//! Showing, registering and deleting images in Postgres.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::{Postgres, read_state, read_time, state_columns};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::timestamp::Timestamp;
use crate::store::outlets::Bells;
use crate::store::recording::{CatalogRows, delete, tell_of_new_image};
use crate::store::row::ImageColumns;
use crate::store::{Added, Catalog, Deleted, Failure, Lent, StoreError};

#[async_trait]
impl Catalog for Postgres {
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<Added, StoreError> {
        self.within("registering an image", async {
            let mut lent = Lent::from(&self.pool).await?;
            let mut tx = lent.connection.begin().await?;
            let inserted = sqlx::query(
                "-- catalog_add
                 INSERT INTO cloudflare_images (cloudflare_id, filename, creator, metadata, created_at, updated_at)
                 VALUES ($1, $2, $3, $4::jsonb, $5, $5)
                 ON CONFLICT (cloudflare_id) DO NOTHING",
            )
            .bind(image.cloudflare_id.as_str())
            .bind(&image.filename)
            .bind(&image.creator)
            .bind(image.metadata.as_str())
            .bind(now.to_offset_date_time())
            .execute(&mut *tx)
            .await?
            .rows_affected();
            let mut added = Added::AlreadyThere;
            let mut bells = Bells::default();
            if inserted == 1 {
                added = Added::Inserted;
                bells = tell_of_new_image(&mut *tx, &image.cloudflare_id, &self.recording.outlets, now).await?;
            }
            tx.commit().await?;
            bells.ring();
            lent.give_back();
            Ok(added)
        })
        .await
    }

    async fn delete(&self, id: &CloudflareId, now: Timestamp) -> Result<Deleted, StoreError> {
        self.within("deleting an image", async {
            let mut lent = Lent::from(&self.pool).await?;
            let mut tx = lent.connection.begin().await?;
            let (deleted, bells) = delete(&mut *tx, id, &self.recording.outlets, now).await?;
            tx.commit().await?;
            bells.ring();
            lent.give_back();
            Ok(deleted)
        })
        .await
    }

    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError> {
        self.within("finding an image", async {
            let row = sqlx::query(concat!(
                "-- catalog_find
                 SELECT ",
                state_columns!(),
                ", metadata::text AS metadata, created_at, updated_at FROM cloudflare_images WHERE cloudflare_id = $1",
            ))
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(read_image).transpose()
        })
        .await
    }

    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError> {
        self.within("listing images", async {
            sqlx::query(concat!(
                "-- catalog_list
                 SELECT ",
                state_columns!(),
                ", metadata::text AS metadata, created_at, updated_at FROM cloudflare_images
                 WHERE $1::text IS NULL OR status = $1 ORDER BY updated_at DESC, cloudflare_id LIMIT $2",
            ))
            .bind(status.map(Status::as_str))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_image)
            .collect()
        })
        .await
    }
}

impl CatalogRows for PgConnection {
    async fn delete_image(&mut self, id: &CloudflareId) -> Result<u64, Failure> {
        let deleted = sqlx::query(
            "-- catalog_delete\n DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
        )
        .bind(id.as_str())
        .execute(self);
        Ok(deleted.await?.rows_affected())
    }
}

fn read_image(row: &PgRow) -> Result<Image, Failure> {
    let columns = ImageColumns {
        state: read_state(row)?,
        metadata: row.try_get("metadata")?,
        created_at: read_time(row, "created_at")?,
        updated_at: read_time(row, "updated_at")?,
    };
    Ok(columns.decode()?)
}
