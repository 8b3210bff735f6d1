//! What recording a batch is on any database: six steps at the most (two of them once more where a row is deleted meanwhile), each about
//! all rows at once, however many notifications there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::batch::{
    ChangedImage, Decision, Known, LogEntry, cloudflare_ids, decide, log_data, undated,
};
use super::event::NewEvent;
use super::outlets::{Bells, Outgoing, Outlets};
use super::rejection::NewRejection;
use super::row::{StateColumns, StoredImage};
use super::{Deleted, Failure, StoreError};
use crate::domain::event::{EventKind, Model};
use crate::domain::id::CloudflareId;
use crate::domain::json::Json;
use crate::domain::notification::{Notification, UnknownImages};
use crate::domain::outcome::{Outcome, RejectionReason};
use crate::domain::timestamp::Timestamp;

/// The statements, on a connection that is in a transaction. No step is asked for without rows.
pub(super) trait Rows: Send {
    /// Inserts the rows of these images that are missing, in the given order; the ids of those.
    fn insert_missing(
        &mut self,
        ids: &[&str],
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;

    /// Reads the rows of these images, with what only their events tell or without, and keeps others from changing them until the end
    /// of the transaction.
    fn lock_images(
        &mut self,
        ids: &[&str],
        with_rest: bool,
    ) -> impl Future<Output = Result<Vec<StateColumns>, Failure>> + Send;

    /// The positions, from 0, of those that the audit trail has.
    fn find_seen(
        &mut self,
        undated: &[Undated<'_>],
    ) -> impl Future<Output = Result<Vec<usize>, Failure>> + Send;

    /// Rewrites these rows, and adds to the audit trail in the given order; either may be empty, though not both. The ids of the new
    /// entries are told where that is asked for.
    fn write(
        &mut self,
        images: &[ChangedImage],
        logs: &[LogEntry],
        with_log_ids: bool,
    ) -> impl Future<Output = Result<Written, Failure>> + Send;
}

/// What was written.
#[derive(Default)]
pub(super) struct Written {
    /// How many rows there were to rewrite.
    pub(super) images: u64,
    /// The ids of the audit trail's new entries, in their order, or none.
    pub(super) log_ids: Vec<i64>,
}

/// The statement about what goes, on a connection that is in a transaction.
pub(super) trait CatalogRows: Send {
    /// Deletes this image's row; how many rows that were.
    fn delete_image(
        &mut self,
        id: &CloudflareId,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// The statement about what is told, on a connection that is in a transaction. It is not asked for without rows.
pub(super) trait OutboxRows: Send {
    /// Adds these events and their deliveries, in the given order, and has the database say what is to be said on a channel.
    fn insert_events(
        &mut self,
        outgoing: &Outgoing<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The statements about what is not applied, on a connection that is in a transaction. No step is asked for without rows.
pub(super) trait RejectionRows: Send {
    /// Adds to what is not applied, in the given order.
    fn insert_rejections(
        &mut self,
        rejections: &[NewRejection],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Those of these rows that are not applied yet; nobody else applies them before the end of the transaction.
    fn lock_unapplied(
        &mut self,
        ids: &[i64],
    ) -> impl Future<Output = Result<Vec<i64>, Failure>> + Send;

    /// Marks these rows as applied, each with its outcome.
    fn settle(
        &mut self,
        settled: &[(i64, &'static str)],
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A notification that says no time of its own, for an image that has a row.
pub(super) struct Undated<'a> {
    pub(super) image_id: Uuid,
    pub(super) cloudflare_id: &'a CloudflareId,
    payload: &'a Json,
    /// What the audit trail would hold of it.
    pub(super) data: String,
}

/// How a store records: what it does with an id that has no row, and whom it tells.
pub(super) struct Recording {
    pub(super) unknown_images: UnknownImages,
    pub(super) outlets: Outlets,
}

/// Records a batch: reads, decides, writes. The caller begins, commits, and wakes who is told.
pub(super) async fn record(
    rows: &mut (impl Rows + RejectionRows + OutboxRows),
    notifications: &[Arc<Notification>],
    recording: &Recording,
) -> Result<(Vec<Outcome>, Bells), Failure> {
    let (decision, bells) = apply(rows, notifications, recording, None).await?;
    if !decision.rejections.is_empty() {
        rows.insert_rejections(&decision.rejections).await?;
    }
    Ok((decision.recorded, bells))
}

/// Records those of the rejected notifications that nobody has applied meanwhile; what they came to. One whose image has no row,
/// still or again, stays as it is. The rows change now, whenever the notifications came: an app that looks for changes finds them.
pub(super) async fn record_rejected(
    rows: &mut (impl Rows + RejectionRows + OutboxRows),
    rejected: &[(i64, Arc<Notification>)],
    recording: &Recording,
    now: Timestamp,
) -> Result<(Vec<(i64, Outcome)>, Bells), Failure> {
    let ids: Vec<i64> = rejected.iter().map(|(id, _)| *id).collect();
    let ids: HashSet<i64> = rows.lock_unapplied(&ids).await?.into_iter().collect();
    let (ids, notifications): (Vec<i64>, Vec<Arc<Notification>>) = rejected
        .iter()
        .filter(|(id, _)| ids.contains(id))
        .cloned()
        .unzip();
    let (decision, bells) = apply(rows, &notifications, recording, Some(now)).await?;

    let recorded: Vec<_> = ids.into_iter().zip(decision.recorded).collect();
    let settled: Vec<_> = recorded
        .iter()
        .filter(|(_, recorded)| *recorded != Outcome::Rejected(RejectionReason::UnknownImage))
        .map(|(id, outcome)| (*id, outcome.name()))
        .collect();
    if !settled.is_empty() {
        rows.settle(&settled, now).await?;
    }
    Ok((recorded, bells))
}

/// Applies what can be applied; the decision says what could not. The rows change at this time, or else when their notifications came.
async fn apply(
    rows: &mut (impl Rows + OutboxRows),
    notifications: &[Arc<Notification>],
    recording: &Recording,
    at: Option<Timestamp>,
) -> Result<(Decision, Bells), Failure> {
    let ids = cloudflare_ids(notifications);
    let known = if ids.is_empty() {
        Known::default()
    } else {
        look_up(rows, &ids, notifications, recording).await?
    };

    let interest = recording.outlets.interest();
    let mut decision = decide(notifications, known, at, interest);

    let (changed, logs) = (&decision.changed, &decision.logs);
    let mut written = Written::default();
    if !changed.is_empty() || !logs.is_empty() {
        written = rows.write(changed, logs, interest.is_in_logs()).await?;
    }
    // The rows are locked, so each must be there. A write that hits fewer would acknowledge what is not stored.
    if written.images != changed.len() as u64 {
        return Err(kept_back("cloudflare_images"));
    }
    if interest.is_in_logs() && written.log_ids.len() != logs.len() {
        return Err(kept_back("cloudflare_image_logs"));
    }

    let happenings = std::mem::take(&mut decision.happenings);
    let events: Vec<_> = happenings
        .into_iter()
        .map(|happening| happening.into_event(&decision.logs, &written.log_ids))
        .collect();
    let bells = tell(rows, &events, &recording.outlets).await?;
    Ok((decision, bells))
}

fn kept_back(table: &'static str) -> Failure {
    StoreError::KeptBack { table }.into()
}

/// Puts the events into the outbox, for everybody who wants them.
async fn tell(
    rows: &mut impl OutboxRows,
    events: &[NewEvent],
    outlets: &Outlets,
) -> Result<Bells, Failure> {
    let outgoing = outlets.outgoing(events);
    if !outgoing.deliveries.is_empty() {
        rows.insert_events(&outgoing).await?;
    }
    Ok(outlets.bells_for(&outgoing.deliveries))
}

/// Tells that this image was inserted, in the transaction in which it was.
pub(super) async fn tell_of_new_image(
    rows: &mut (impl Rows + OutboxRows),
    id: &CloudflareId,
    outlets: &Outlets,
    now: Timestamp,
) -> Result<Bells, Failure> {
    if !outlets.interest().is_in(Model::Image, EventKind::Created) {
        return Ok(Bells::default());
    }
    let images = rows.lock_images(&[id.as_str()], true).await?;
    let events = images
        .into_iter()
        .map(|image| Ok(NewEvent::image_created(&image.decode()?, now)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    tell(rows, &events, outlets).await
}

/// Deletes this image's row, if there is one, and tells so.
pub(super) async fn delete(
    rows: &mut (impl Rows + CatalogRows + OutboxRows),
    id: &CloudflareId,
    outlets: &Outlets,
    now: Timestamp,
) -> Result<(Deleted, Bells), Failure> {
    let is_told = outlets.interest().is_in(Model::Image, EventKind::Deleted);
    // Locked first, so that what is told is what goes.
    let Some(image) = rows.lock_images(&[id.as_str()], is_told).await?.pop() else {
        return Ok((Deleted::WasNotThere, Bells::default()));
    };
    let mut events = Vec::new();
    if is_told {
        events.push(NewEvent::image_deleted(&image.decode()?, now));
    }
    if rows.delete_image(id).await? == 0 {
        return Err(kept_back("cloudflare_images"));
    }
    let bells = tell(rows, &events, outlets).await?;
    Ok((Deleted::Gone, bells))
}

async fn look_up(
    rows: &mut impl Rows,
    ids: &[&CloudflareId],
    notifications: &[Arc<Notification>],
    recording: &Recording,
) -> Result<Known, Failure> {
    let names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let with_rest = recording.outlets.interest().is_in_images();
    let (images, inserted) = match (recording.unknown_images, notifications.first()) {
        (UnknownImages::Create, Some(first)) => {
            insert_and_lock(rows, ids, &names, first.received_at, with_rest).await?
        }
        _ => (rows.lock_images(&names, with_rest).await?, HashSet::new()),
    };
    let images: Vec<StoredImage> = images
        .into_iter()
        .map(StateColumns::decode)
        .collect::<Result<_, _>>()?;
    let seen = find_seen(rows, &images, notifications).await?;
    Ok(Known {
        images,
        inserted,
        seen,
    })
}

/// Inserts the rows that are missing, and locks all; which were inserted.
async fn insert_and_lock(
    rows: &mut impl Rows,
    ids: &[&CloudflareId],
    names: &[&str],
    now: Timestamp,
    with_rest: bool,
) -> Result<(Vec<StateColumns>, HashSet<CloudflareId>), Failure> {
    let insertable = ids.iter().filter(|id| id.fits_an_index());
    let insertable: Vec<&str> = insertable.map(|id| id.as_str()).collect();
    let mut inserted = HashSet::new();
    let mut locked = Vec::new();
    // A row that somebody is deleting is there when it could be inserted, and is gone when its lock is had: once more, then.
    for _ in 0..2 {
        // The first time before any lock is taken, so that replicas which insert the same ids wait for each other in one direction only. The
        // second time they may wait crosswise; then each notification is recorded by itself.
        if !insertable.is_empty() {
            inserted.extend(rows.insert_missing(&insertable, now).await?);
        }
        locked = rows.lock_images(names, with_rest).await?;
        if locked.len() >= insertable.len() {
            break;
        }
    }
    let inserted = ids.iter().filter(|id| inserted.contains(id.as_str()));
    let inserted = inserted.map(|id| CloudflareId::clone(id)).collect();
    Ok((locked, inserted))
}

/// Which of the undated notifications the audit trail has already.
async fn find_seen(
    rows: &mut impl Rows,
    images: &[StoredImage],
    notifications: &[Arc<Notification>],
) -> Result<HashSet<(CloudflareId, Json)>, Failure> {
    let undated = undated(notifications);
    if undated.is_empty() {
        return Ok(HashSet::new());
    }
    let image_ids: HashMap<&CloudflareId, Uuid> = images
        .iter()
        .map(|image| (&image.cloudflare_id, image.id))
        .collect();
    let undated: Vec<_> = undated
        .into_iter()
        .filter_map(|(cloudflare_id, payload)| {
            Some(Undated {
                image_id: *image_ids.get(cloudflare_id)?,
                cloudflare_id,
                payload,
                data: log_data(payload),
            })
        })
        .collect();
    if undated.is_empty() {
        return Ok(HashSet::new());
    }
    let positions = rows.find_seen(&undated).await?;
    let seen = positions
        .into_iter()
        .filter_map(|position| undated.get(position));
    Ok(seen
        .map(|undated| (undated.cloudflare_id.clone(), undated.payload.clone()))
        .collect())
}
