//! The plan of an import: the rows to write, given the images to import and the stored rows. This code is pure.

use std::collections::{HashMap, HashSet};

use super::rows::RowToWrite;
use super::{ImportEffect, decode_app_columns};
use crate::domain::audit::AuditEntry;
use crate::domain::detail::Detail;
use crate::domain::event::{Change, Model, changes};
use crate::domain::id::CloudflareId;
use crate::domain::image::{DEFAULT_UPLOAD_TIME, ImageState};
use crate::domain::import::{AppColumns, ImportedImage};
use crate::domain::json::Json;
use crate::domain::timestamp::Timestamp;
use crate::random::uuid_v7;
use crate::store::error::StoreError;
use crate::store::inbox::columns::{StoredImage, canonical_json};

/// The stored rows that an import needs, after the insertion of the new rows.
pub(in crate::store) struct ImportSnapshot {
    /// The images whose row is new.
    pub(in crate::store) inserted: HashSet<String>,
    /// The other images, locked.
    pub(in crate::store) stored: HashMap<CloudflareId, StoredImage>,
}

/// The rows to write after the insertion, and the effects.
#[derive(Default)]
pub(in crate::store) struct ImportPlan {
    /// The effect on each image, in their order.
    pub(in crate::store) effects: Vec<ImportEffect>,
    /// The rows to update.
    pub(in crate::store) updates: Vec<RowToWrite>,
    /// The new entries of the audit log: one for each image that is inserted or updated, in their order.
    pub(in crate::store) entries: Vec<AuditEntry>,
}

/// Returns the new row of each image, in the order of their Cloudflare ids, in which rows are locked.
pub(in crate::store) fn new_rows(images: &[ImportedImage], now: Timestamp) -> Vec<RowToWrite> {
    let mut rows: Vec<RowToWrite> = images.iter().map(|image| new_row(image, now)).collect();
    rows.sort_unstable_by(|one, other| one.cloudflare_id.cmp(&other.cloudflare_id));
    rows
}

fn new_row(image: &ImportedImage, now: Timestamp) -> RowToWrite {
    let mut state = ImageState::registered();
    image.merge_into(&mut state);
    let created_at = image.created_at.unwrap_or(now);
    let default_expiry = created_at.saturating_add(DEFAULT_UPLOAD_TIME);
    let mut app_columns = image.app_columns.clone();
    app_columns.expires_at.get_or_insert(default_expiry);
    RowToWrite {
        id: image.id.unwrap_or_else(uuid_v7),
        cloudflare_id: image.cloudflare_id.clone(),
        state,
        has_variants: true,
        has_cloudflare_metadata: true,
        app_columns,
        created_at,
        updated_at: image.updated_at.unwrap_or(now),
    }
}

/// Merges each image with its row. Images without a row have the effect [`ImportEffect::RowIdTaken`].
pub(in crate::store) fn plan(
    images: &[ImportedImage],
    new_rows: &[RowToWrite],
    snapshot: &ImportSnapshot,
    now: Timestamp,
) -> Result<ImportPlan, StoreError> {
    let new_rows: HashMap<&CloudflareId, &RowToWrite> = new_rows
        .iter()
        .map(|row| (&row.cloudflare_id, row))
        .collect();
    let mut plan = ImportPlan::default();
    for image in images {
        let id = &image.cloudflare_id;
        let (effect, row, before) = if snapshot.inserted.contains(id.as_str()) {
            (ImportEffect::Inserted, new_rows.get(id).copied(), None)
        } else if let Some(stored) = snapshot.stored.get(id) {
            match updated_row(stored, image, now)? {
                None => (ImportEffect::Unchanged, None, None),
                Some(row) => {
                    plan.updates.push(row);
                    let before = Some(stored.state.status);
                    (ImportEffect::Updated, plan.updates.last(), before)
                }
            }
        } else {
            (ImportEffect::RowIdTaken, None, None)
        };
        plan.effects.push(effect);
        plan.entries.extend(row.map(|row| {
            let ids = (row.id, id.clone());
            AuditEntry::imported(ids, &image.payload, (before, row.state.status), now)
        }));
    }
    Ok(plan)
}

/// Returns the row to update; `None` if the import changes nothing. Compares JSON in canonical form.
fn updated_row(
    stored: &StoredImage,
    image: &ImportedImage,
    now: Timestamp,
) -> Result<Option<RowToWrite>, StoreError> {
    let extra_columns = stored.extra_columns.as_deref().unwrap_or_default();
    let stored_app_columns = decode_app_columns(extra_columns, stored.id)?;
    let mut state = stored.state.clone();
    state.details.variants.value = canonical_json(&state.details.variants.value);
    state.details.cloudflare_metadata.value =
        canonical_json(&state.details.cloudflare_metadata.value);
    let canonical = state.clone();

    let has_state = image.merge_into(&mut state);

    let app_columns = changed_app_columns(&image.app_columns, &stored_app_columns);
    if !has_state && app_columns == AppColumns::default() {
        return Ok(None);
    }
    let (details, before) = (&state.details, &canonical.details);
    Ok(Some(RowToWrite {
        id: stored.id,
        cloudflare_id: stored.cloudflare_id.clone(),
        has_variants: has_new_value(&details.variants, &before.variants),
        has_cloudflare_metadata: has_new_value(
            &details.cloudflare_metadata,
            &before.cloudflare_metadata,
        ),
        state,
        app_columns,
        created_at: now,
        updated_at: now,
    }))
}

fn has_new_value(after: &Detail<Json>, before: &Detail<Json>) -> bool {
    after.value != before.value
}

/// Returns the given columns that differ from the stored ones.
fn changed_app_columns(given: &AppColumns, stored: &AppColumns) -> AppColumns {
    let canonical = |json: &Option<Json>| json.as_ref().map(canonical_json);
    let has_metadata = canonical(&given.metadata) != canonical(&stored.metadata);
    AppColumns {
        metadata: given.metadata.clone().filter(|_| has_metadata),
        user_id: changed(given.user_id.as_ref(), stored.user_id.as_ref()),
        original_filename: changed(
            given.original_filename.as_ref(),
            stored.original_filename.as_ref(),
        ),
        content_type: changed(given.content_type.as_ref(), stored.content_type.as_ref()),
        file_size: changed(given.file_size.as_ref(), stored.file_size.as_ref()),
        width: changed(given.width.as_ref(), stored.width.as_ref()),
        height: changed(given.height.as_ref(), stored.height.as_ref()),
        format: changed(given.format.as_ref(), stored.format.as_ref()),
        expires_at: changed(given.expires_at.as_ref(), stored.expires_at.as_ref()),
        last_referenced_at: changed(
            given.last_referenced_at.as_ref(),
            stored.last_referenced_at.as_ref(),
        ),
    }
}

fn changed<T: PartialEq + Clone>(given: Option<&T>, stored: Option<&T>) -> Option<T> {
    given.filter(|given| Some(*given) != stored).cloned()
}

/// The columns of an app that an import changed, with their values before and after.
pub(in crate::store) struct AppChanges(Vec<(&'static str, Json, Json)>);

impl AppChanges {
    /// Compares two rows of one image, both with their extra columns. Leaves out the times of the row itself.
    pub(in crate::store) fn between(before: &StoredImage, after: &StoredImage) -> Self {
        let [before, after] = [before, after].map(extra_values);
        let pairs = before.into_iter().zip(after);
        let columns = Model::EXTRA_IMAGE_FIELDS.into_iter().zip(pairs);
        let changes = columns
            .filter(|(column, (before, after))| {
                before != after && !["created_at", "updated_at"].contains(column)
            })
            .map(|(column, (before, after))| (column, before, after));
        Self(changes.collect())
    }

    /// Returns all changes of an update: those of the service's columns, then those of the app's.
    pub(in crate::store) fn with<'a>(
        &'a self,
        before: &'a ImageState,
        after: &'a ImageState,
    ) -> Vec<Change<'a>> {
        let app_changes = self.0.iter().map(|(field, old, new)| Change {
            field,
            old: old.into(),
            new: new.into(),
        });
        changes(before, after)
            .into_iter()
            .chain(app_changes)
            .collect()
    }
}

/// Returns the extra columns as JSON, with times in the form of events.
fn extra_values(image: &StoredImage) -> Vec<Json> {
    let extra_columns = image.extra_columns.as_deref().unwrap_or_default();
    let values: Vec<serde_json::Value> = serde_json::from_str(extra_columns).unwrap_or_default();
    let columns = Model::EXTRA_IMAGE_FIELDS.into_iter().zip(values);
    let in_event_form = |(column, value): (&str, serde_json::Value)| {
        let time = value.as_str().filter(|_| column.ends_with("_at"));
        let time = time.and_then(|text| Timestamp::parse_rfc3339(text).ok());
        let value = time.map_or(value, |time| time.to_string().into());
        Json::from_canonical(value.to_string())
    };
    columns.map(in_event_form).collect()
}
