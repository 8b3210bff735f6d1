//! Routing of events to endpoints, and the wake-ups of their workers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use super::Settlement;
use super::event::NewEvent;
use crate::domain::delivery::DeliveryStatus;
use crate::domain::event::{EventKind, Model, Subscription, Subscriptions};
use crate::domain::id::CloudflareId;
use crate::domain::timestamp::Timestamp;

/// The endpoint name of deliveries that Postgres announced on its channel.
pub(crate) const NOTIFY_ENDPOINT: &str = "notify";

/// The router of events to endpoints.
pub(in crate::store) struct EventRouter {
    subscriptions: Subscriptions,
    wanted: WantedEvents,
    wakeups: HashMap<String, Arc<Notify>>,
}

/// The events that at least one endpoint wants. The channel of Postgres counts as an endpoint. The store creates no other events.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct WantedEvents {
    by_model_and_kind: [[bool; EventKind::ALL.len()]; Model::ALL.len()],
}

impl WantedEvents {
    /// Returns whether any endpoint wants events of this model and kind.
    pub(in crate::store) fn contains(self, model: Model, kind: EventKind) -> bool {
        self.by_model_and_kind[model as usize][kind as usize]
    }

    /// Returns whether any endpoint wants image events that a notification can cause.
    pub(in crate::store) fn contains_any_image_event(self) -> bool {
        self.contains(Model::Image, EventKind::Created)
            || self.contains(Model::Image, EventKind::Updated)
    }

    /// Returns whether any endpoint wants events about new audit log entries.
    pub(in crate::store) fn contains_log_created(self) -> bool {
        self.contains(Model::ImageLog, EventKind::Created)
    }

    fn of(subscriptions: &Subscriptions) -> Self {
        let mut wanted = Self::default();
        for model in Model::ALL {
            for kind in EventKind::ALL {
                let is_announced = model == Model::Image && subscriptions.channel.is_some();
                let endpoints = &subscriptions.endpoints;
                let is_subscribed = endpoints
                    .iter()
                    .any(|subscription| subscription.wants(model, kind));
                wanted.by_model_and_kind[model as usize][kind as usize] =
                    is_announced || is_subscribed;
            }
        }
        wanted
    }
}

/// The wake-ups of endpoints that received a delivery in a transaction. A wake-up is only a hint: workers also poll, because
/// another process may have written the delivery.
#[derive(Default)]
#[must_use = "without a wake-up, workers find the deliveries at their next poll"]
pub(in crate::store) struct Wakeups(Vec<Arc<Notify>>);

impl Wakeups {
    /// Adds a wake-up.
    pub(in crate::store) fn add(&mut self, wakeup: &Arc<Notify>) {
        self.0.push(Arc::clone(wakeup));
    }

    /// Wakes the workers. Call it after the commit: before it, workers find no delivery.
    pub(in crate::store) fn notify(self) {
        for wakeup in self.0 {
            wakeup.notify_one();
        }
    }
}

/// The rows that a transaction adds to the outbox.
pub(in crate::store) struct OutboxBatch<'a> {
    /// The events that have a delivery.
    pub(in crate::store) events: Vec<&'a NewEvent>,
    pub(in crate::store) deliveries: Vec<NewDelivery<'a>>,
    /// The channel on which Postgres sends the announcements at the commit.
    pub(in crate::store) channel: Option<&'a str>,
    /// The announcements: one JSON text for each changed image.
    pub(in crate::store) announcements: Vec<String>,
}

/// A new row of `relay_deliveries`.
pub(in crate::store) struct NewDelivery<'a> {
    pub(in crate::store) event: &'a NewEvent,
    pub(in crate::store) endpoint: &'a str,
    is_ordered: bool,
    /// True if the transaction itself delivers the event, as an announcement.
    is_announced: bool,
}

impl NewDelivery<'_> {
    /// Returns the image whose earlier deliveries must complete first; `None` if the endpoint is not ordered.
    pub(in crate::store) fn image(&self) -> Option<&str> {
        let image = self.event.image.as_ref().filter(|_| self.is_ordered);
        image.map(CloudflareId::as_str)
    }

    pub(in crate::store) fn status(&self) -> &'static str {
        let status = if self.is_announced {
            DeliveryStatus::Delivered
        } else {
            DeliveryStatus::Pending
        };
        status.name()
    }

    /// Returns the time of the first attempt; `None` for an announcement.
    pub(in crate::store) fn due_at(&self) -> Option<Timestamp> {
        (!self.is_announced).then_some(self.event.at)
    }

    /// Returns the time of completion; `None` unless it is an announcement.
    pub(in crate::store) fn completed_at(&self) -> Option<Timestamp> {
        self.is_announced.then_some(self.event.at)
    }
}

impl EventRouter {
    pub(in crate::store) fn new(subscriptions: Subscriptions) -> Self {
        let wanted = WantedEvents::of(&subscriptions);
        let endpoints = &subscriptions.endpoints;
        let wakeups = endpoints
            .iter()
            .map(|subscription| (subscription.endpoint.clone(), Arc::default()))
            .collect();
        Self {
            subscriptions,
            wanted,
            wakeups,
        }
    }

    pub(in crate::store) fn wanted(&self) -> WantedEvents {
        self.wanted
    }

    /// Returns a delivery for each endpoint that wants an event, and an announcement of each image's last event.
    pub(in crate::store) fn route<'a>(&'a self, events: &'a [NewEvent]) -> OutboxBatch<'a> {
        let channel = self.subscriptions.channel.as_deref();
        let mut batch = OutboxBatch {
            events: Vec::with_capacity(events.len()),
            deliveries: Vec::with_capacity(events.len()),
            channel,
            announcements: Vec::new(),
        };
        let announced = channel.map(|_| last_event_ids(events)).unwrap_or_default();
        for event in events {
            let deliveries_before = batch.deliveries.len();
            let wants = |subscription: &&Subscription| {
                let model_and_kind = event.model_and_kind;
                model_and_kind.is_some_and(|(model, kind)| subscription.wants(model, kind))
            };
            let matching = self.subscriptions.endpoints.iter().filter(wants);
            batch
                .deliveries
                .extend(matching.map(|subscription| NewDelivery {
                    event,
                    endpoint: &subscription.endpoint,
                    is_ordered: subscription.ordered,
                    is_announced: false,
                }));
            if announced.contains(event.id.as_str())
                && let Some(announcement) = event.announcement()
            {
                batch.announcements.push(announcement);
                batch.deliveries.push(NewDelivery {
                    event,
                    endpoint: NOTIFY_ENDPOINT,
                    is_ordered: false,
                    is_announced: true,
                });
            }
            if batch.deliveries.len() > deliveries_before {
                batch.events.push(event);
            }
        }
        batch
    }

    /// Returns the wake-ups of the endpoints of these deliveries.
    pub(in crate::store) fn wakeups_for(&self, deliveries: &[NewDelivery<'_>]) -> Wakeups {
        let has_delivery = |endpoint: &str| {
            deliveries
                .iter()
                .any(|delivery| delivery.endpoint == endpoint)
        };
        let wakeups = self.wakeups.iter();
        let woken = wakeups.filter(|(endpoint, _)| has_delivery(endpoint));
        Wakeups(woken.map(|(_, wakeup)| Arc::clone(wakeup)).collect())
    }

    /// Returns the wake-ups of these endpoints.
    pub(in crate::store) fn wakeups_of(&self, endpoints: &[String]) -> Wakeups {
        let wakeups = self.wakeups.iter();
        let woken = wakeups.filter(|(endpoint, _)| endpoints.contains(endpoint));
        Wakeups(woken.map(|(_, wakeup)| Arc::clone(wakeup)).collect())
    }

    /// Returns the wake-up of each endpoint.
    pub(in crate::store) fn wakeups(&self) -> HashMap<String, Arc<Notify>> {
        self.wakeups.clone()
    }
}

/// Returns the id of each image's last event. The last event describes the state that readers see after the commit.
fn last_event_ids(events: &[NewEvent]) -> HashSet<&str> {
    let mut images = HashSet::new();
    let image_events = events.iter().rev().filter(|event| event.is_image_event());
    image_events
        .filter(|event| images.insert(&event.image))
        .map(|event| event.id.as_str())
        .collect()
}

/// Returns the events of the alerts in these settlements, and the endpoint of each.
pub(in crate::store) fn alert_events(
    settlements: &[Settlement],
) -> (Vec<NewEvent>, Vec<&'static str>) {
    let alerts = settlements.iter().flat_map(Settlement::alerts);
    alerts
        .map(|alert| (NewEvent::alert(alert), alert.endpoint))
        .unzip()
}

impl<'a> OutboxBatch<'a> {
    /// Returns a delivery of each alert to its endpoint.
    pub(in crate::store) fn alerts(events: &'a [NewEvent], endpoints: &[&'static str]) -> Self {
        let pairs = events.iter().zip(endpoints);
        let deliveries = pairs.map(|(event, endpoint)| NewDelivery {
            event,
            endpoint,
            is_ordered: false,
            is_announced: false,
        });
        Self {
            events: events.iter().collect(),
            deliveries: deliveries.collect(),
            channel: None,
            announcements: Vec::new(),
        }
    }
}
