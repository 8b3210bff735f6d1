//! Showing, registering and deleting images in SQLite.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row, SqliteConnection};

use super::{Sqlite, read_state, read_time, state_columns};
use crate::domain::id::CloudflareId;
use crate::domain::image::{Image, NewImage, Status};
use crate::domain::timestamp::Timestamp;
use crate::store::outlets::Bells;
use crate::store::recording::{CatalogRows, delete, tell_of_new_image};
use crate::store::row::ImageColumns;
use crate::store::{Added, Catalog, Deleted, Failure, Lent, StoreError, within};

#[async_trait]
impl Catalog for Sqlite {
    async fn add(&self, image: &NewImage, now: Timestamp) -> Result<Added, StoreError> {
        within(&self.place, self.deadline, "registering an image", async {
            let mut lent = Lent::from(&self.writer).await?;
            let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
            let inserted = sqlx::query(
                "-- catalog_add
                 INSERT INTO cloudflare_images (cloudflare_id, filename, creator, metadata, created_at, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $5)
                 ON CONFLICT (cloudflare_id) DO NOTHING",
            )
            .bind(image.cloudflare_id.as_str())
            .bind(&image.filename)
            .bind(&image.creator)
            .bind(image.metadata.as_str())
            .bind(now.to_string())
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
        within(&self.place, self.deadline, "deleting an image", async {
            let mut lent = Lent::from(&self.writer).await?;
            let mut tx = lent.connection.begin_with("BEGIN IMMEDIATE").await?;
            let (deleted, bells) = delete(&mut *tx, id, &self.recording.outlets, now).await?;
            tx.commit().await?;
            bells.ring();
            lent.give_back();
            Ok(deleted)
        })
        .await
    }

    async fn find(&self, id: &CloudflareId) -> Result<Option<Image>, StoreError> {
        within(&self.place, self.deadline, "finding an image", async {
            let row = sqlx::query(concat!(
                "-- catalog_find
                 SELECT ",
                state_columns!(),
                ", metadata, created_at, updated_at FROM cloudflare_images WHERE cloudflare_id = $1",
            ))
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
            row.as_ref().map(read_image).transpose()
        })
        .await
    }

    async fn list(&self, status: Option<Status>, limit: u32) -> Result<Vec<Image>, StoreError> {
        within(&self.place, self.deadline, "listing images", async {
            sqlx::query(concat!(
                "-- catalog_list
                 SELECT ",
                state_columns!(),
                ", metadata, created_at, updated_at FROM cloudflare_images
                 WHERE $1 IS NULL OR status = $1 ORDER BY updated_at DESC, cloudflare_id LIMIT $2",
            ))
            .bind(status.map(Status::as_str))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(read_image)
            .collect()
        })
        .await
    }
}

impl CatalogRows for SqliteConnection {
    async fn delete_image(&mut self, id: &CloudflareId) -> Result<u64, Failure> {
        let deleted = sqlx::query(
            "-- catalog_delete\n DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
        )
        .bind(id.as_str())
        .execute(self);
        Ok(deleted.await?.rows_affected())
    }
}

fn read_image(row: &SqliteRow) -> Result<Image, Failure> {
    let state = read_state(row)?;
    let id = state.id;
    let columns = ImageColumns {
        state,
        metadata: row.try_get("metadata")?,
        created_at: read_time(row, "created_at", id)?,
        updated_at: read_time(row, "updated_at", id)?,
    };
    Ok(columns.decode()?)
}
