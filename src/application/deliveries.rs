//! The actions of an operator on deliveries.

use serde::Serialize;
use serde_json::value::RawValue;

use super::endpoints::require_configured;
use super::{ActionError, Context, raw_json};
use crate::store::{Attempt, Changed, Delivery, DeliveryFilter, MoveTarget, StoreError, Unsent};

/// The most attempts of one delivery that are shown.
const MAX_ATTEMPTS: u32 = 1000;

/// The number of deliveries that one statement moves or deletes.
const PAGE_SIZE: u32 = 1000;

/// Returns the newest deliveries that match the filter, the newest first.
pub(crate) async fn list(
    context: &Context,
    filter: &DeliveryFilter,
    limit: u32,
) -> Result<Vec<DeliveryView>, ActionError> {
    let catalog = &context.store.delivery_catalog;
    let deliveries = catalog.newest_deliveries(filter, limit).await?;
    Ok(deliveries.into_iter().map(DeliveryView::from).collect())
}

/// Returns one delivery with its payload and its attempts.
pub(crate) async fn show(context: &Context, id: i64) -> Result<DeliveryDetails, ActionError> {
    let delivery = find(context, id).await?;
    let catalog = &context.store.delivery_catalog;
    let attempts = catalog.attempts(id, MAX_ATTEMPTS).await?;
    Ok(DeliveryDetails {
        payload: raw_json(&delivery.payload),
        delivery: delivery.into(),
        attempts: attempts.into_iter().map(AttemptView::from).collect(),
    })
}

/// Makes finished deliveries due again.
///
/// The filter must have an id, or an endpoint with a status or a time. An endpoint alone is refused: by
/// mistake, one would send everything again.
pub(crate) async fn replay(
    context: &Context,
    filter: &DeliveryFilter,
) -> Result<Changed, ActionError> {
    let is_narrowed = filter.status.is_some() || filter.since.is_some();
    let endpoint = match (filter.id, &filter.endpoint) {
        (Some(id), _) => find(context, id).await?.endpoint,
        (None, Some(endpoint)) if is_narrowed => endpoint.clone(),
        (None, _) => return Err(ActionError::NothingSelected),
    };
    require_configured(&context.endpoints, &endpoint)?;
    let catalog = &context.store.delivery_catalog;
    let replayed = catalog.replay(filter, context.clock.read()).await?;
    match (filter.id, replayed) {
        (
            Some(id),
            Changed {
                changed: 0,
                suppressed: 0,
            },
        ) => Err(ActionError::DeliveryNotFinished(id)),
        (_, replayed) => Ok(replayed),
    }
}

/// The deliveries of an endpoint that an operator moves or deletes.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) endpoint: String,
    pub(crate) with_failed: bool,
    /// Whether the endpoint may be in the configuration. Its deliveries would otherwise be sent.
    pub(crate) allows_configured: bool,
}

/// Moves the deliveries to another endpoint, which must be in the configuration.
pub(crate) async fn move_to(
    context: &Context,
    selection: &Selection,
    to: &str,
) -> Result<Changed, ActionError> {
    let Some(ordered) = context.endpoints.is_ordered(to) else {
        return Err(ActionError::EndpointNotConfigured(to.to_owned()));
    };
    if selection.endpoint == to {
        return Err(ActionError::SameEndpoint(to.to_owned()));
    }
    selection.check(context)?;
    let target = MoveTarget {
        endpoint: to.to_owned(),
        ordered,
    };
    let catalog = &context.store.delivery_catalog;
    for_each_page(context, selection, async |page| {
        catalog.move_deliveries(&target, &page).await
    })
    .await
}

/// Deletes the deliveries.
pub(crate) async fn delete(
    context: &Context,
    selection: &Selection,
) -> Result<Changed, ActionError> {
    selection.check(context)?;
    let catalog = &context.store.delivery_catalog;
    for_each_page(context, selection, async |page| {
        catalog.delete_deliveries(&page).await
    })
    .await
}

/// Changes pages of deliveries until none changes. The database suppressed the deliveries that are left then.
async fn for_each_page(
    context: &Context,
    selection: &Selection,
    change_page: impl AsyncFn(Unsent) -> Result<u64, StoreError>,
) -> Result<Changed, ActionError> {
    let catalog = &context.store.delivery_catalog;
    let (mut changed, mut suppressed) = (0, 0);
    loop {
        let of_page = change_page(selection.page(context)).await?;
        changed += of_page;
        if of_page > 0 {
            suppressed = 0;
        } else if suppressed > 0 {
            return Ok(Changed {
                changed,
                suppressed,
            });
        } else {
            // Deliveries can also be left because they were inserted a moment ago. Then the next page changes some.
            suppressed = catalog.count_unsent(&selection.page(context)).await?;
            if suppressed == 0 {
                return Ok(Changed {
                    changed,
                    suppressed,
                });
            }
        }
    }
}

impl Selection {
    fn check(&self, context: &Context) -> Result<(), ActionError> {
        if context.endpoints.contains(&self.endpoint) && !self.allows_configured {
            return Err(ActionError::EndpointConfigured(self.endpoint.clone()));
        }
        Ok(())
    }

    fn page(&self, context: &Context) -> Unsent {
        Unsent {
            endpoint: self.endpoint.clone(),
            with_failed: self.with_failed,
            now: context.clock.read(),
            limit: PAGE_SIZE,
        }
    }
}

async fn find(context: &Context, id: i64) -> Result<Delivery, ActionError> {
    let delivery = context.store.delivery_catalog.find_delivery(id).await?;
    delivery.ok_or(ActionError::DeliveryNotFound(id))
}

/// A delivery, with fields named after its columns.
#[derive(Debug, Serialize)]
pub(crate) struct DeliveryView {
    pub(crate) id: i64,
    pub(crate) endpoint: String,
    pub(crate) event_id: String,
    pub(crate) event: String,
    pub(crate) model: String,
    pub(crate) image: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) status_code: Option<i32>,
    pub(crate) error: String,
    pub(crate) attempts: i32,
    pub(crate) due_at: Option<String>,
    pub(crate) created_at: String,
    pub(crate) completed_at: Option<String>,
}

/// A delivery with its payload and its attempts.
#[derive(Debug, Serialize)]
pub(crate) struct DeliveryDetails {
    #[serde(flatten)]
    pub(crate) delivery: DeliveryView,
    /// Published as `attempt_history`, because `attempts` is their number.
    #[serde(rename = "attempt_history")]
    pub(crate) attempts: Vec<AttemptView>,
    pub(crate) payload: Box<RawValue>,
}

/// An attempt of a delivery, with fields named after its columns.
#[derive(Debug, Serialize)]
pub(crate) struct AttemptView {
    pub(crate) number: i32,
    pub(crate) started_at: String,
    pub(crate) duration_ms: i64,
    pub(crate) status_code: Option<i32>,
    pub(crate) error: String,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            endpoint: delivery.endpoint,
            event_id: delivery.event_id,
            event: delivery.event,
            model: delivery.model,
            image: delivery.image,
            status: delivery.status.name(),
            status_code: delivery.status_code,
            error: delivery.error,
            attempts: delivery.attempts,
            due_at: delivery.due_at.map(|time| time.to_string()),
            created_at: delivery.created_at.to_string(),
            completed_at: delivery.completed_at.map(|time| time.to_string()),
        }
    }
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: attempt.started_at.to_string(),
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: attempt.error,
        }
    }
}
