//! The import and the export of images, mounted into each backend (see [`super`]).

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;

use super::columns::{
    Backend, Connection, exported_columns, imported_rows, page_position, read_exported,
    read_position,
};
use crate::domain::event::{EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::import::ImportedImage;
use crate::domain::timestamp::Timestamp;
use crate::store::error::StoreError;
use crate::store::inbox::columns::StoredImage;
use crate::store::inbox::record::add_to_outbox;
use crate::store::inbox::statements::{ColumnSet, ImageStatements};
use crate::store::outbox::event::{NewEvent, PendingEvent};
use crate::store::outbox::router::WantedEvents;
use crate::store::session::{OperationError, TransactionMode, check_written, rows_suppressed};
use crate::store::transfer::plan::{AppChanges, ImportPlan, ImportSnapshot, new_rows, plan};
use crate::store::transfer::rows::{RowToWrite, imported_columns, rows_json};
use crate::store::transfer::{ExportPage, ExportPosition, ImageTransfer, ImportEffect};

#[async_trait]
impl ImageTransfer for Backend {
    async fn import(
        &self,
        images: &[ImportedImage],
        now: Timestamp,
    ) -> Result<Vec<ImportEffect>, StoreError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let router = &self.policy.router;
        let mode = TransactionMode::Durable;
        let importing = self.transaction("importing images", mode, async |tx| {
            let rows = new_rows(images, now);
            let snapshot = insert_and_lock(tx, images, &rows).await?;
            let plan = plan(images, &rows, &snapshot, now)?;
            let entry_ids = write(tx, &plan, router.wanted()).await?;
            let wanted = router.wanted();
            let events = read_events(tx, &plan, &snapshot, (&entry_ids, now), wanted).await?;
            let wakeups = add_to_outbox(tx, &events, router).await?;
            Ok((plan.effects, wakeups))
        });
        let effects = importing.await?;
        self.count_committed(images.len());
        Ok(effects)
    }

    async fn export_page(
        &self,
        after: Option<&ExportPosition>,
        limit: u32,
    ) -> Result<ExportPage, StoreError> {
        self.read("exporting images", async |connection| {
            let query = match after {
                None => sqlx::query(concat!(
                    "-- transfer_first_page
                     SELECT ",
                    exported_columns!(),
                    " FROM cloudflare_images ORDER BY id LIMIT $1"
                ))
                .bind(i64::from(limit)),
                Some(ExportPosition(after)) => sqlx::query(concat!(
                    "-- transfer_page
                     SELECT ",
                    exported_columns!(),
                    " FROM cloudflare_images WHERE id > ",
                    page_position!("$2"),
                    " ORDER BY id LIMIT $1"
                ))
                .bind(i64::from(limit))
                .bind(after),
            };
            let mut page = ExportPage::empty();
            let mut rows = query.fetch(connection);
            let mut bytes = 0;
            while let Some(row) = rows.try_next().await? {
                let (exported, size) = read_exported(&row)?;
                bytes += size;
                page.images.push(exported);
                if page.is_full(bytes, limit) {
                    page.next = Some(ExportPosition(read_position(&row)?));
                    break;
                }
            }
            Ok(page)
        })
        .await
    }
}

/// Inserts the images that have no row, and locks the others. The insertion takes place before any lock, in the order of the ids.
/// So two transactions that insert the same ids cannot deadlock.
async fn insert_and_lock(
    tx: &mut Connection,
    images: &[ImportedImage],
    rows: &[RowToWrite],
) -> Result<ImportSnapshot, OperationError> {
    let inserted: Vec<String> = sqlx::query_scalar(concat!(
        "-- transfer_insert
         INSERT INTO cloudflare_images (",
        imported_columns!(),
        ")
         SELECT id, cloudflare_id, status, status_at, uploaded_at, error, filename, creator, require_signed_urls, variants,
             cloudflare_metadata, details_at, COALESCE(metadata, '{}'), user_id, COALESCE(original_filename, ''),
             COALESCE(content_type, ''), file_size, width, height, COALESCE(format, ''), created_at, updated_at, expires_at,
             last_referenced_at
         FROM ",
        imported_rows!("$1"),
        " AS change
         WHERE NOT EXISTS (SELECT 1 FROM cloudflare_images AS image WHERE image.cloudflare_id = change.cloudflare_id)
         ON CONFLICT DO NOTHING
         RETURNING cloudflare_id"
    ))
    .bind(rows_json(rows))
    .fetch_all(&mut *tx)
    .await?;
    let inserted: HashSet<String> = inserted.into_iter().collect();

    let others = rows.iter().map(|row| row.cloudflare_id.as_str());
    let others: Vec<&str> = others.filter(|id| !inserted.contains(*id)).collect();
    let stored = lock(tx, &others).await?;
    if stored.len() < others.len() {
        check_missing(tx, images, rows, &inserted, &stored).await?;
    }
    Ok(ImportSnapshot { inserted, stored })
}

async fn lock(
    tx: &mut Connection,
    ids: &[&str],
) -> Result<HashMap<CloudflareId, StoredImage>, OperationError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut images = HashMap::new();
    for columns in tx.lock_images(ids, ColumnSet::StateAndExtra).await? {
        let image = columns.decode()?;
        images.insert(image.cloudflare_id.clone(), image);
    }
    Ok(images)
}

/// Fails if an image has no row for another reason than that its row id belongs to another image.
async fn check_missing(
    tx: &mut Connection,
    images: &[ImportedImage],
    rows: &[RowToWrite],
    inserted: &HashSet<String>,
    stored: &HashMap<CloudflareId, StoredImage>,
) -> Result<(), OperationError> {
    let has_own_id: HashSet<&CloudflareId> = images
        .iter()
        .filter(|image| image.id.is_some())
        .map(|image| &image.cloudflare_id)
        .collect();
    let missing = rows.iter().filter(|row| {
        let id = &row.cloudflare_id;
        !inserted.contains(id.as_str()) && !stored.contains_key(id)
    });
    let missing: Vec<&RowToWrite> = missing.collect();
    let taken: i64 = sqlx::query_scalar(concat!(
        "-- transfer_count_taken
         SELECT count(*) FROM ",
        imported_rows!("$1"),
        " AS change WHERE EXISTS (SELECT 1 FROM cloudflare_images AS image WHERE image.id = change.id)"
    ))
    .bind(rows_json(missing.iter().copied()))
    .fetch_one(tx)
    .await?;
    let is_taken = taken.unsigned_abs() == missing.len() as u64;
    let all_have_own_id = missing
        .iter()
        .all(|row| has_own_id.contains(&row.cloudflare_id));
    if is_taken && all_have_own_id {
        return Ok(());
    }
    Err(rows_suppressed("cloudflare_images"))
}

/// Updates rows, and inserts audit log entries. Returns the row ids of the entries if an endpoint needs them.
async fn write(
    tx: &mut Connection,
    plan: &ImportPlan,
    wanted: WantedEvents,
) -> Result<Vec<i64>, OperationError> {
    if !plan.updates.is_empty() {
        let updated = sqlx::query(concat!(
            "-- transfer_update
             UPDATE cloudflare_images AS image
             SET status = change.status, status_at = change.status_at, uploaded_at = change.uploaded_at, error = change.error,
                 filename = change.filename, creator = change.creator, require_signed_urls = change.require_signed_urls,
                 variants = COALESCE(change.variants, image.variants),
                 cloudflare_metadata = COALESCE(change.cloudflare_metadata, image.cloudflare_metadata),
                 details_at = change.details_at, metadata = COALESCE(change.metadata, image.metadata),
                 user_id = COALESCE(change.user_id, image.user_id),
                 original_filename = COALESCE(change.original_filename, image.original_filename),
                 content_type = COALESCE(change.content_type, image.content_type),
                 file_size = COALESCE(change.file_size, image.file_size), width = COALESCE(change.width, image.width),
                 height = COALESCE(change.height, image.height), format = COALESCE(change.format, image.format),
                 expires_at = COALESCE(change.expires_at, image.expires_at),
                 last_referenced_at = COALESCE(change.last_referenced_at, image.last_referenced_at),
                 updated_at = change.updated_at
             FROM ",
            imported_rows!("$1"),
            " AS change WHERE image.cloudflare_id = change.cloudflare_id"
        ))
        .bind(rows_json(&plan.updates))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        check_written("cloudflare_images", plan.updates.len(), updated)?;
    }
    if plan.entries.is_empty() {
        return Ok(Vec::new());
    }
    let with_ids = wanted.contains_log_created();
    let written = tx.write_images(&[], &plan.entries, with_ids).await?;
    let inserted = written.inserted_entries;
    check_written("cloudflare_image_logs", plan.entries.len(), inserted)?;
    Ok(written.entry_ids)
}

/// Returns the events of the changed rows that an endpoint wants. Reads the rows again, so events show all columns as they are now.
async fn read_events(
    tx: &mut Connection,
    plan: &ImportPlan,
    snapshot: &ImportSnapshot,
    (entry_ids, now): (&[i64], Timestamp),
    wanted: WantedEvents,
) -> Result<Vec<NewEvent>, OperationError> {
    let ids: Vec<&CloudflareId> = plan
        .entries
        .iter()
        .filter_map(|entry| entry.image.as_ref().map(|(_, id)| id))
        .collect();
    let rows = if wanted.contains_any_image_event() {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        lock(tx, &ids).await?
    } else {
        HashMap::new()
    };
    let mut events = Vec::new();
    for (entry_index, id) in ids.into_iter().enumerate() {
        let image = rows.get(id);
        match snapshot.stored.get(id) {
            None if wanted.contains(Model::Image, EventKind::Created) => {
                events.extend(image.map(|image| NewEvent::image_inserted(image.row(), now)));
            }
            Some(before) if wanted.contains(Model::Image, EventKind::Updated) => {
                events.extend(image.map(|image| {
                    let app_changes = AppChanges::between(before, image);
                    let changes = app_changes.with(&before.state, &image.state);
                    NewEvent::image_updated(image.row(), &changes, now)
                }));
            }
            None | Some(_) => {}
        }
        if wanted.contains_log_created() {
            let event = PendingEvent::log_created(entry_index, now);
            events.push(event.into_event(&plan.entries, entry_ids));
        }
    }
    Ok(events)
}
