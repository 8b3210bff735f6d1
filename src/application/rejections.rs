//! The actions of an operator on rejections and parked notifications.

use std::sync::Arc;

use serde::Serialize;

use super::{ActionError, Context};
use crate::domain::notification::Body;
use crate::domain::rejection::RejectionState;
use crate::receiver::{ParkedApplier, Reprocessed};
use crate::store::{Rejection, RejectionFilter, StoreError};

/// The number of rejections that [`reprocess_all`] reads at once. Each has a body of up to 64 KiB.
const PAGE: u32 = 100;

/// Returns the newest rejections that match the filter, the newest first, without their bodies.
pub(crate) async fn list(
    context: &Context,
    filter: &RejectionFilter,
    limit: u32,
) -> Result<Vec<RejectionView>, ActionError> {
    let catalog = &context.store.rejection_catalog;
    let rejections = catalog.newest_rejections(filter, limit).await?;
    let rejections = rejections.into_iter();
    Ok(rejections.map(RejectionView::without_body).collect())
}

/// Returns one rejection with its body.
pub(crate) async fn show(context: &Context, id: i64) -> Result<RejectionView, ActionError> {
    let rejection = find(context, id).await?;
    Ok(RejectionView::with_body(rejection))
}

/// Applies one rejection now, no matter why it was refused.
pub(crate) async fn reprocess(context: &Context, id: i64) -> Result<Reprocessed, ActionError> {
    let rejection = find(context, id).await?;
    if rejection.body.is_none() {
        return Err(ActionError::RejectionWithoutBody(id));
    }
    Ok(applier(context).reprocess(&rejection).await?)
}

/// Applies all matching rejections, the oldest first, and reports each result.
///
/// A failed rejection does not stop the others, except if the database fails for all of them.
pub(crate) async fn reprocess_all(
    context: &Context,
    filter: &RejectionFilter,
    mut report: impl FnMut(i64, Result<Reprocessed, StoreError>),
) -> Result<ReprocessTotals, ActionError> {
    let catalog = &context.store.rejection_catalog;
    let applier = applier(context);
    let mut totals = ReprocessTotals::default();
    let mut after = 0;
    loop {
        let page = catalog.unapplied_rejections(filter, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(totals);
        };
        after = last.id;
        for rejection in &page {
            let result = match applier.reprocess(rejection).await {
                Err(error) if error.is_systemic() => return Err(error.into()),
                result => result,
            };
            totals.reprocessed += 1;
            totals.not_applied += usize::from(result.as_ref().map_or(true, is_refused));
            report(rejection.id, result);
        }
    }
}

/// Applies the parked notifications whose image has a row now. Returns their number.
pub(crate) async fn apply_parked(context: &Context) -> Result<usize, ActionError> {
    let applied = applier(context).sweep().await;
    applied.map_err(ActionError::ParkedNotApplied)
}

/// Returns whether the rejection was refused again.
pub(crate) fn is_refused(reprocessed: &Reprocessed) -> bool {
    match reprocessed {
        Reprocessed::Refused(_) => true,
        Reprocessed::Recorded(..) | Reprocessed::Parked(_) | Reprocessed::AlreadyApplied => false,
    }
}

fn applier(context: &Context) -> ParkedApplier {
    let rejections = Arc::clone(&context.store.rejections);
    let clock = Arc::clone(&context.clock);
    ParkedApplier::new(rejections, &context.webhook, context.can_look_up, clock)
}

async fn find(context: &Context, id: i64) -> Result<Rejection, ActionError> {
    let rejection = context.store.rejection_catalog.find_rejection(id).await?;
    rejection.ok_or(ActionError::RejectionNotFound(id))
}

/// The totals of [`reprocess_all`].
#[derive(Debug, Default)]
pub(crate) struct ReprocessTotals {
    pub(crate) reprocessed: usize,
    pub(crate) not_applied: usize,
}

/// A rejection, with fields named after its columns.
#[derive(Debug, Serialize)]
pub(crate) struct RejectionView {
    pub(crate) id: i64,
    pub(crate) received_at: String,
    pub(crate) status: i32,
    pub(crate) reason: String,
    pub(crate) problem: String,
    pub(crate) state: &'static str,
    pub(crate) settled_at: Option<String>,
    pub(crate) outcome: String,
    pub(crate) cloudflare_id: Option<String>,
    pub(crate) scheme: String,
    pub(crate) client_address: String,
    pub(crate) request_id: String,
    pub(crate) count: i64,
    pub(crate) body_bytes: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
    /// The problem, the outcome or the scheme, for one column of a list. JSON has a field for each of them.
    #[serde(skip)]
    pub(crate) details: String,
}

impl RejectionView {
    fn with_body(mut rejection: Rejection) -> Self {
        let body = rejection.body.take();
        Self {
            body: body.as_ref().map(text),
            ..Self::without_body(rejection)
        }
    }

    fn without_body(rejection: Rejection) -> Self {
        Self {
            details: details(&rejection),
            id: rejection.id,
            received_at: rejection.received_at.to_string(),
            status: rejection.status,
            reason: rejection.reason,
            problem: rejection.problem,
            state: rejection.state.name(),
            settled_at: rejection.settled_at.map(|time| time.to_string()),
            outcome: rejection.outcome,
            cloudflare_id: rejection.cloudflare_id,
            scheme: rejection.request_info.scheme,
            client_address: rejection.request_info.client_address,
            request_id: rejection.request_info.request_id,
            count: rejection.count,
            body_bytes: rejection.body_bytes,
            body: None,
        }
    }
}

/// Returns a body as text. Invalid UTF-8 is replaced.
fn text(body: &Body) -> String {
    String::from_utf8_lossy(body.as_bytes()).into_owned()
}

/// Returns the problem, the outcome or the scheme, depending on the state.
fn details(rejection: &Rejection) -> String {
    let scheme = &rejection.request_info.scheme;
    match rejection.state {
        RejectionState::Counted if scheme.is_empty() => String::new(),
        RejectionState::Counted => format!("with {scheme}"),
        RejectionState::Applied => rejection.outcome.clone(),
        RejectionState::Stored | RejectionState::Parked | RejectionState::Failed => {
            rejection.problem.clone()
        }
    }
}
