//! Recording a batch on either database, in five steps: look up, decide, write, add to the outbox, reject.
//!
//! A statement handles all rows of the batch at once. The caller begins and commits the transaction, and wakes the workers after
//! the commit.
//!
//! Each step compares the number of written rows with the number of given rows. If a trigger or a row-level security policy
//! suppressed a row, the transaction fails, because the response 200 would be wrong.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;

use super::columns::{StateColumns, StoredImage};
use super::plan::{Snapshot, WritePlan, decide};
use super::redelivery::already_logged;
use super::statements::{
    ColumnSet, EventStatements, ImageStatements, LookupStatements, RejectionStatements, WriteResult,
};
use crate::domain::id::CloudflareId;
use crate::domain::notification::{Notification, UnknownImages};
use crate::domain::outcome::{Origin, Outcome};
use crate::domain::timestamp::Timestamp;
use crate::store::outbox::event::NewEvent;
use crate::store::outbox::router::{EventRouter, OutboxBatch, Wakeups};
use crate::store::session::{OperationError, check_written, rows_suppressed};

/// The treatment of images without a row, and the router of events.
pub(in crate::store) struct RecordPolicy {
    pub(in crate::store) unknown_images: UnknownImages,
    pub(in crate::store) router: EventRouter,
    /// Notified when lookups at Cloudflare became due.
    pub(in crate::store) lookups_wakeup: Arc<Notify>,
}

/// Records notifications, and returns their outcomes in the same order.
pub(in crate::store) async fn record(
    tx: &mut (impl ImageStatements + RejectionStatements + EventStatements + LookupStatements),
    notifications: &[Arc<Notification>],
    policy: &RecordPolicy,
) -> Result<(Vec<Outcome>, Wakeups), OperationError> {
    let snapshot = lookup(tx, notifications, policy).await?;
    let mut plan = decide(
        notifications,
        Origin::Webhook,
        snapshot,
        None,
        policy.router.wanted(),
    );
    let written = write(tx, &plan, policy).await?;
    let mut wakeups = add_to_outbox(tx, &take_events(&mut plan, &written), &policy.router).await?;
    if let Some(first) = notifications.first() {
        queue_lookups(tx, &plan, policy, first.received_at, &mut wakeups).await?;
    }
    reject(tx, &plan).await?;
    Ok((plan.outcomes, wakeups))
}

/// Records rejected notifications, and marks their rejections as applied. Skips rejections that another process applied
/// meanwhile. Leaves a rejection unchanged if its image still has no row.
///
/// `updated_at` becomes the current time, not the time of receipt, so an app that polls for changed rows finds them.
pub(in crate::store) async fn record_rejected(
    tx: &mut (impl ImageStatements + RejectionStatements + EventStatements + LookupStatements),
    rejected: &[(i64, Arc<Notification>)],
    policy: &RecordPolicy,
    now: Timestamp,
) -> Result<(Vec<(i64, Outcome)>, Wakeups), OperationError> {
    let ids: Vec<i64> = rejected.iter().map(|(id, _)| *id).collect();
    let unapplied: HashSet<i64> = tx.lock_unapplied(&ids).await?.into_iter().collect();
    let (ids, notifications): (Vec<i64>, Vec<Arc<Notification>>) = rejected
        .iter()
        .filter(|(id, _)| unapplied.contains(id))
        .cloned()
        .unzip();
    let snapshot = lookup(tx, &notifications, policy).await?;
    let at = Some(now);
    let mut plan = decide(
        &notifications,
        Origin::Webhook,
        snapshot,
        at,
        policy.router.wanted(),
    );
    let written = write(tx, &plan, policy).await?;
    let mut wakeups = add_to_outbox(tx, &take_events(&mut plan, &written), &policy.router).await?;
    queue_lookups(tx, &plan, policy, now, &mut wakeups).await?;

    let outcomes: Vec<_> = ids.into_iter().zip(plan.outcomes).collect();
    let applied: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Rejected(_)))
        .map(|(id, outcome)| (*id, outcome.name()))
        .collect();
    if !applied.is_empty() {
        let marked = tx.mark_applied(&applied, now).await?;
        check_written("webhook_rejections", applied.len(), marked)?;
    }
    Ok((outcomes, wakeups))
}

/// Records what lookups at Cloudflare found. An image whose row was deleted meanwhile stays deleted.
///
/// `updated_at` becomes `now`, which is later than the lookups.
pub(in crate::store) async fn record_lookups(
    tx: &mut (impl ImageStatements + EventStatements),
    found: &[Arc<Notification>],
    policy: &RecordPolicy,
    now: Timestamp,
) -> Result<(Vec<Outcome>, Wakeups), OperationError> {
    let snapshot = read_images(tx, found, UnknownImages::Reject, policy).await?;
    let wanted = policy.router.wanted();
    let mut plan = decide(found, Origin::Lookup, snapshot, Some(now), wanted);
    let written = write(tx, &plan, policy).await?;
    let wakeups = add_to_outbox(tx, &take_events(&mut plan, &written), &policy.router).await?;
    Ok((plan.outcomes, wakeups))
}

/// Step 1: reads and locks the batch's images. Inserts missing rows if the policy is to create them.
async fn lookup(
    tx: &mut impl ImageStatements,
    notifications: &[Arc<Notification>],
    policy: &RecordPolicy,
) -> Result<Snapshot, OperationError> {
    read_images(tx, notifications, policy.unknown_images, policy).await
}

async fn read_images(
    tx: &mut impl ImageStatements,
    notifications: &[Arc<Notification>],
    unknown_images: UnknownImages,
    policy: &RecordPolicy,
) -> Result<Snapshot, OperationError> {
    let ids = sorted(
        notifications
            .iter()
            .filter_map(|notification| notification.image()),
    );
    let hinted = notifications
        .iter()
        .flat_map(|notification| notification.candidates());
    let mut candidates = sorted(hinted);
    candidates.retain(|id| ids.binary_search(id).is_err());
    let is_empty = ids.is_empty() && candidates.is_empty();
    let (Some(first), false) = (notifications.first(), is_empty) else {
        return Ok(Snapshot::default());
    };
    let columns = if policy.router.wanted().contains_any_image_event() {
        ColumnSet::StateAndExtra
    } else {
        ColumnSet::State
    };
    let (mut images, inserted) = match unknown_images {
        _ if ids.is_empty() => Default::default(),
        UnknownImages::Create => insert_and_lock(tx, &ids, first.received_at, columns).await?,
        UnknownImages::Reject => (
            tx.lock_images(&as_strs(&ids), columns).await?,
            HashSet::new(),
        ),
    };
    if !candidates.is_empty() {
        images.extend(tx.lock_images(&as_strs(&candidates), columns).await?);
    }
    let images: Vec<StoredImage> = images
        .into_iter()
        .map(StateColumns::decode)
        .collect::<Result<_, _>>()?;
    let already_logged = already_logged(tx, &images, notifications).await?;
    Ok(Snapshot {
        images,
        inserted,
        already_logged,
    })
}

/// Returns each id once. All transactions lock in this order.
fn sorted<'a>(ids: impl Iterator<Item = &'a CloudflareId>) -> Vec<&'a CloudflareId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn as_strs<'a>(ids: &[&'a CloudflareId]) -> Vec<&'a str> {
    ids.iter().map(|id| id.as_str()).collect()
}

/// Inserts missing rows, and locks all. Returns the rows, and the ids of the inserted ones. Fails if an insertion was suppressed.
async fn insert_and_lock(
    tx: &mut impl ImageStatements,
    ids: &[&CloudflareId],
    now: Timestamp,
    columns: ColumnSet,
) -> Result<(Vec<StateColumns>, HashSet<CloudflareId>), OperationError> {
    let insertable = ids.iter().filter(|id| id.fits_index());
    let insertable: Vec<&str> = insertable.map(|id| id.as_str()).collect();
    let mut inserted = HashSet::new();
    let mut locked = Vec::new();
    // Two rounds, because another transaction may delete a row between the insertion and the lock.
    for _ in 0..2 {
        // The first insertion takes place before any lock, in the order of the ids. So two replicas that insert the same ids
        // cannot deadlock. The second insertion can deadlock; then each notification is recorded alone.
        if !insertable.is_empty() {
            inserted.extend(tx.insert_missing_images(&insertable, now).await?);
        }
        locked = tx.lock_images(&as_strs(ids), columns).await?;
        if locked.len() >= insertable.len() {
            break;
        }
    }
    if locked.len() < insertable.len() {
        return Err(rows_suppressed("cloudflare_images"));
    }
    let inserted = ids.iter().filter(|id| inserted.contains(id.as_str()));
    let inserted = inserted.map(|id| CloudflareId::clone(id)).collect();
    Ok((locked, inserted))
}

/// Step 3: updates images, and inserts audit log entries.
///
/// A suppressed entry fails its webhook too, although the status could be stored. Without the entry, a redelivery of a report
/// without a time would count as a new report, and could move the image back.
async fn write(
    tx: &mut impl ImageStatements,
    plan: &WritePlan,
    policy: &RecordPolicy,
) -> Result<WriteResult, OperationError> {
    let (changed, entries) = (&plan.changed, &plan.entries);
    if changed.is_empty() && entries.is_empty() {
        return Ok(WriteResult::default());
    }
    let with_entry_ids = policy.router.wanted().contains_log_created();
    let written = tx.write_images(changed, entries, with_entry_ids).await?;
    check_written("cloudflare_images", changed.len(), written.updated_images)?;
    check_written(
        "cloudflare_image_logs",
        entries.len(),
        written.inserted_entries,
    )?;
    Ok(written)
}

/// Makes the lookups due that the plan asks for.
async fn queue_lookups(
    tx: &mut impl LookupStatements,
    plan: &WritePlan,
    policy: &RecordPolicy,
    now: Timestamp,
    wakeups: &mut Wakeups,
) -> Result<(), OperationError> {
    if plan.lookups.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<&str> = plan.lookups.iter().map(CloudflareId::as_str).collect();
    ids.sort_unstable();
    ids.dedup();
    tx.queue_lookups(&ids, now).await?;
    wakeups.add(&policy.lookups_wakeup);
    Ok(())
}

fn take_events(plan: &mut WritePlan, written: &WriteResult) -> Vec<NewEvent> {
    let pending = std::mem::take(&mut plan.events).into_iter();
    pending
        .map(|event| event.into_event(&plan.entries, &written.entry_ids))
        .collect()
}

/// Step 4: inserts events into the outbox, with a delivery for each endpoint that wants the event.
pub(in crate::store) async fn add_to_outbox(
    tx: &mut impl EventStatements,
    events: &[NewEvent],
    router: &EventRouter,
) -> Result<Wakeups, OperationError> {
    let batch = router.route(events);
    if !batch.deliveries.is_empty() {
        insert_events(tx, &batch).await?;
    }
    Ok(router.wakeups_for(&batch.deliveries))
}

/// Inserts events and deliveries. Fails if one of them was suppressed.
pub(in crate::store) async fn insert_events(
    tx: &mut impl EventStatements,
    batch: &OutboxBatch<'_>,
) -> Result<(), OperationError> {
    let (events, deliveries) = (&batch.events, &batch.deliveries);
    let inserted = tx.insert_events(batch).await?;
    if inserted.events < events.len() as u64 {
        // An alert is stored already if its settlement is repeated, because the answer to the first commit was lost.
        // Several endpoints can have the same alert.
        let ids: HashSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        check_written("relay_events", ids.len(), tx.count_events(&ids).await?)?;
    }
    check_written("relay_deliveries", deliveries.len(), inserted.deliveries)
}

/// Step 5: stores rejections for the notifications that cannot be applied.
async fn reject(tx: &mut impl RejectionStatements, plan: &WritePlan) -> Result<(), OperationError> {
    if plan.rejections.is_empty() {
        return Ok(());
    }
    let inserted = tx.insert_rejections(&plan.rejections).await?;
    check_written("webhook_rejections", plan.rejections.len(), inserted)
}
