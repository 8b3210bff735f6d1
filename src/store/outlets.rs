//! Who is told what, and how they are woken when there is something for them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use super::event::NewEvent;
use super::outbox::Settlement;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::{Audience, EventKind, Model, Subscription};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;

/// What stands for an endpoint's name where the database itself said that an image changed.
pub(crate) const CHANNEL: &str = "notify";

/// Who is told, and how they are woken when there is something for them.
pub(super) struct Outlets {
    audience: Audience,
    interest: Interest,
    bells: HashMap<String, Arc<Notify>>,
}

/// What anybody at all wants to be told: nothing else is made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Interest {
    wanted: [[bool; EventKind::ALL.len()]; Model::ALL.len()],
}

impl Interest {
    /// Whether events like this are wanted.
    pub(super) fn is_in(self, model: Model, kind: EventKind) -> bool {
        self.wanted[model as usize][kind as usize]
    }

    /// Whether it is wanted what notifications make of images.
    pub(super) fn is_in_images(self) -> bool {
        self.is_in(Model::Image, EventKind::Created) || self.is_in(Model::Image, EventKind::Updated)
    }

    /// Whether it is wanted that the audit trail has new entries.
    pub(super) fn is_in_logs(self) -> bool {
        self.is_in(Model::ImageLog, EventKind::Created)
    }

    fn of(audience: &Audience) -> Self {
        let mut interest = Self::default();
        for model in Model::ALL {
            for kind in EventKind::ALL {
                let is_said = model == Model::Image && audience.channel.is_some();
                let subscriptions = &audience.subscriptions;
                let is_told = subscriptions.iter().any(|one| one.wants(model, kind));
                interest.wanted[model as usize][kind as usize] = is_said || is_told;
            }
        }
        interest
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

/// What a transaction puts into the outbox.
pub(super) struct Outgoing<'a> {
    /// Those that somebody is told.
    pub(super) events: Vec<&'a NewEvent>,
    pub(super) deliveries: Vec<NewDelivery<'a>>,
    /// Where the database itself says something, when the transaction is committed.
    pub(super) channel: Option<&'a str>,
    /// What it says there.
    pub(super) notifications: Vec<String>,
}

/// A row for `relay_deliveries`.
pub(super) struct NewDelivery<'a> {
    pub(super) event: &'a NewEvent,
    pub(super) endpoint: &'a str,
    ordered: bool,
    /// Whether nothing is left to be done, since the transaction itself tells it.
    is_told: bool,
}

impl NewDelivery<'_> {
    /// The image whose earlier events are told first, if they are.
    pub(super) fn image(&self) -> Option<&str> {
        let image = self.event.image.as_ref().filter(|_| self.ordered);
        image.map(CloudflareId::as_str)
    }

    pub(super) fn status(&self) -> &'static str {
        let status = if self.is_told {
            DeliveryStatus::Delivered
        } else {
            DeliveryStatus::Pending
        };
        status.name()
    }

    /// When it is to be worked on, if it is.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        (!self.is_told).then_some(self.event.at)
    }

    /// When it came to its end, if it did.
    pub(super) fn completed_at(&self) -> Option<Timestamp> {
        self.is_told.then_some(self.event.at)
    }
}

impl Outlets {
    pub(super) fn new(audience: Audience) -> Self {
        let interest = Interest::of(&audience);
        let subscriptions = &audience.subscriptions;
        let bells = subscriptions
            .iter()
            .map(|one| (one.endpoint.clone(), Arc::default()))
            .collect();
        Self {
            audience,
            interest,
            bells,
        }
    }

    pub(super) fn interest(&self) -> Interest {
        self.interest
    }

    /// A delivery for each endpoint that wants it, of each event; and on the channel the last event of each image.
    pub(super) fn outgoing<'a>(&'a self, events: &'a [NewEvent]) -> Outgoing<'a> {
        let channel = self.audience.channel.as_deref();
        let mut out = Outgoing {
            events: Vec::with_capacity(events.len()),
            deliveries: Vec::with_capacity(events.len()),
            channel,
            notifications: Vec::new(),
        };
        let last = channel
            .map(|_| last_of_each_image(events))
            .unwrap_or_default();
        for event in events {
            let before = out.deliveries.len();
            let wants = |one: &&Subscription| {
                let about = event.about;
                about.is_some_and(|(model, kind)| one.wants(model, kind))
            };
            let deliveries = self.audience.subscriptions.iter().filter(wants);
            out.deliveries.extend(deliveries.map(|one| NewDelivery {
                event,
                endpoint: &one.endpoint,
                ordered: one.ordered,
                is_told: false,
            }));
            if last.contains(event.id.as_str())
                && let Some(notification) = event.notification()
            {
                out.notifications.push(notification);
                out.deliveries.push(NewDelivery {
                    event,
                    endpoint: CHANNEL,
                    ordered: false,
                    is_told: true,
                });
            }
            if out.deliveries.len() > before {
                out.events.push(event);
            }
        }
        out
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

/// The ids of these events: what somebody who looks now would find.
fn last_of_each_image(events: &[NewEvent]) -> HashSet<&str> {
    let mut images = HashSet::new();
    let about_images = events
        .iter()
        .rev()
        .filter(|event| event.is_about_how_it_is());
    about_images
        .filter(|event| images.insert(&event.image))
        .map(|event| event.id.as_str())
        .collect()
}

/// The events that tell of these settlements, and whom.
pub(super) fn notices(settlements: &[Settlement]) -> (Vec<NewEvent>, Vec<&'static str>) {
    let notices = settlements.iter().flat_map(|one| &one.notices);
    notices
        .map(|notice| (NewEvent::notice(notice), notice.endpoint))
        .unzip()
}

impl<'a> Outgoing<'a> {
    /// Notices, each for the endpoint that it is for.
    pub(super) fn notices(events: &'a [NewEvent], endpoints: &[&'static str]) -> Self {
        let pairs = events.iter().zip(endpoints);
        let deliveries = pairs.map(|(event, endpoint)| NewDelivery {
            event,
            endpoint,
            ordered: false,
            is_told: false,
        });
        Self {
            events: events.iter().collect(),
            deliveries: deliveries.collect(),
            channel: None,
            notifications: Vec::new(),
        }
    }
}
