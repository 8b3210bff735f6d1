//! Who is told what, and how they are woken when there is something for them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::event::NewEvent;
use super::outbox::Settlement;
use crate::domain::event::{EventKind, Model, Subscription};
use crate::domain::id::CloudflareId;

/// Who is told, and how they are woken when there is something for them.
pub(super) struct Outlets {
    subscriptions: Vec<Subscription>,
    interest: Interest,
    bells: HashMap<String, Arc<Notify>>,
}

/// What anybody at all wants to be told: nothing else is made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Interest {
    pub(super) image_created: bool,
    pub(super) image_updated: bool,
    pub(super) log_created: bool,
}

impl Interest {
    /// Whether events about images are wanted.
    pub(super) fn is_in_images(self) -> bool {
        self.image_created || self.image_updated
    }
}

/// What wakes those who deliver. A hint: they look by themselves as well, since another process may have recorded what is new.
#[derive(Default)]
#[must_use = "what is told is delivered later than it could be"]
pub(super) struct Bells(Vec<Arc<Notify>>);

impl Bells {
    /// To be called when the transaction is committed: who is woken before finds nothing.
    pub(super) fn ring(self) {
        for bell in self.0 {
            bell.notify_one();
        }
    }
}

/// A row for `relay_deliveries`.
pub(super) struct NewDelivery<'a> {
    pub(super) event: &'a NewEvent,
    pub(super) endpoint: &'a str,
    ordered: bool,
}

impl NewDelivery<'_> {
    /// The image whose earlier events are told first, if they are.
    pub(super) fn image(&self) -> Option<&str> {
        let image = self.event.image.as_ref().filter(|_| self.ordered);
        image.map(CloudflareId::as_str)
    }
}

impl Outlets {
    pub(super) fn new(subscriptions: Vec<Subscription>) -> Self {
        let wanted = |model, kind| subscriptions.iter().any(|one| one.wants(model, kind));
        let interest = Interest {
            image_created: wanted(Model::Image, EventKind::Created),
            image_updated: wanted(Model::Image, EventKind::Updated),
            log_created: wanted(Model::ImageLog, EventKind::Created),
        };
        let bells = subscriptions
            .iter()
            .map(|one| (one.endpoint.clone(), Arc::default()))
            .collect();
        Self {
            subscriptions,
            interest,
            bells,
        }
    }

    pub(super) fn interest(&self) -> Interest {
        self.interest
    }

    /// One for each endpoint that wants it, of each event.
    pub(super) fn deliveries<'a>(&'a self, events: &'a [NewEvent]) -> Vec<NewDelivery<'a>> {
        let wanted = |event: &'a NewEvent| {
            let wants = |one: &&Subscription| {
                let about = event.about;
                about.is_some_and(|(model, kind)| one.wants(model, kind))
            };
            let of = |one: &'a Subscription| NewDelivery {
                event,
                endpoint: &one.endpoint,
                ordered: one.ordered,
            };
            self.subscriptions.iter().filter(wants).map(of)
        };
        events.iter().flat_map(wanted).collect()
    }

    /// What to ring when these are committed.
    pub(super) fn bells_for(&self, deliveries: &[NewDelivery<'_>]) -> Bells {
        let is_told = |endpoint: &str| deliveries.iter().any(|one| one.endpoint == endpoint);
        let told = self.bells.iter().filter(|(endpoint, _)| is_told(endpoint));
        Bells(told.map(|(_, bell)| Arc::clone(bell)).collect())
    }

    /// For each endpoint, what is rung when there may be something for it.
    pub(super) fn bells(&self) -> impl Iterator<Item = (String, Arc<Notify>)> {
        let bells = self.bells.iter();
        bells.map(|(endpoint, bell)| (endpoint.clone(), Arc::clone(bell)))
    }
}

/// The events that tell of these settlements, and whom.
pub(super) fn notices(settlements: &[Settlement]) -> (Vec<NewEvent>, Vec<&'static str>) {
    let notices = settlements.iter().flat_map(|one| &one.notices);
    notices
        .map(|notice| (NewEvent::notice(notice), notice.endpoint))
        .unzip()
}

/// The deliveries of notices.
pub(super) fn deliveries_of<'a>(
    events: &'a [NewEvent],
    endpoints: &[&'static str],
) -> Vec<NewDelivery<'a>> {
    let pairs = events.iter().zip(endpoints);
    pairs
        .map(|(event, endpoint)| NewDelivery {
            event,
            endpoint,
            ordered: false,
        })
        .collect()
}
