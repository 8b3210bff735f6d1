//! Looking up images at Cloudflare.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{ActionError, Context};
use crate::cloudflare::{ApiError, Client};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;
use crate::reconcile::{LookupFailed, Reconciler};
use crate::store::{ImagePosition, StoreError};

pub(crate) use crate::reconcile::{FailedImage, Found, Summary};

/// The reason why an action at Cloudflare failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl From<StoreError> for ReconcileError {
    fn from(error: StoreError) -> Self {
        Self::Action(error.into())
    }
}

impl From<LookupFailed> for ReconcileError {
    fn from(error: LookupFailed) -> Self {
        match error {
            LookupFailed::Api(error) => error.into(),
            LookupFailed::Store(error) => error.into(),
        }
    }
}

/// What happens during a long run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Progress<'a> {
    /// The lookup of this image failed.
    Failed(&'a FailedImage),
    /// So many images were looked up.
    LookedUp(Summary),
    /// The next call is allowed after this time.
    Waiting(Duration),
}

/// Looks up every waiting image that is old enough, and records what it finds. `since`: only images that were created since then.
pub(crate) async fn reconcile(
    context: &Context,
    client: Client,
    since: Option<Timestamp>,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ReconcileError> {
    let reconciler = reconciler(context, client);
    reconciler.queue(since.map(ImagePosition::before)).await?;
    let lookups = &context.store.lookups;
    lookups.make_due(context.clock.read()).await?;
    let mut total = Summary::default();
    loop {
        let Some(batch) = reconciler.reconcile_batch(since).await? else {
            return Ok(total);
        };
        total.add(batch.summary);
        for failure in &batch.failures {
            report(Progress::Failed(failure));
        }
        report(Progress::LookedUp(total));
        if let Some(error) = batch.stopped {
            let wait = error.retry_after().ok_or(error)?;
            report(Progress::Waiting(wait));
            sleep(wait).await;
        }
    }
}

/// Looks up every waiting image that is old enough, and changes nothing.
pub(crate) async fn preview(
    context: &Context,
    client: Client,
    since: Option<Timestamp>,
    report: &mut dyn FnMut(&CloudflareId, Result<Found, &ApiError>),
) -> Result<Summary, ReconcileError> {
    let reconciler = reconciler(context, client);
    let mut total = Summary::default();
    let mut position = since.map(ImagePosition::before);
    while let Some((last, lookups)) = reconciler.peek(position.as_ref()).await? {
        position = Some(last);
        for lookup in lookups {
            let found = reconciler.preview(&lookup).await;
            if let Err(error) = &found
                && error.concerns_all_calls()
            {
                return Err(error.clone().into());
            }
            report(&lookup.cloudflare_id, found.as_ref().map(|found| *found));
            total.count(found.unwrap_or(Found::Failed));
        }
    }
    Ok(total)
}

/// Looks up one image of any age and status. Records what it finds, unless `is_preview`.
pub(crate) async fn reconcile_one(
    context: &Context,
    client: Client,
    id: &CloudflareId,
    is_preview: bool,
) -> Result<Found, ReconcileError> {
    let reconciler = reconciler(context, client);
    let lookup = context.store.lookups.find(id).await?;
    let Some(lookup) = lookup else {
        return Err(ActionError::ImageNotFound(id.clone()).into());
    };
    if is_preview {
        return Ok(reconciler.preview(&lookup).await?);
    }
    Ok(reconciler.reconcile_one(lookup).await?)
}

fn reconciler(context: &Context, client: Client) -> Reconciler {
    let clock = Arc::clone(&context.clock);
    Reconciler::new(&context.store, client, &context.reconcile, clock)
}
