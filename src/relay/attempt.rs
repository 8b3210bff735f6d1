//! One try: what is made of a lease, and what follows from it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::message::{Formed, Message};
use super::notices::GivenUp;
use super::sink::Attempted;
use super::worker::Worker;
use crate::domain::delivery::{DeliveryStatus, Next};
use crate::domain::timestamp::Timestamp;
use crate::random;
use crate::store::{Leased, NewAttempt, Settlement};
use crate::telemetry::chain;

impl Worker {
    /// As it was, for whoever comes next.
    pub(super) fn given_back(&self, leased: &Leased, lease: Arc<str>) -> Settlement {
        let now = self.clock.now();
        let status = if leased.attempts == 0 {
            DeliveryStatus::Pending
        } else {
            DeliveryStatus::Retrying
        };
        Settlement {
            delivery: leased.id,
            lease,
            status,
            due_at: Some(now),
            now,
            attempt: None,
            sent: None,
            notices: Vec::new(),
        }
    }

    pub(super) async fn attempt(&self, leased: Leased, lease: Arc<str>) -> Settlement {
        let number = leased.attempts.saturating_add(1);
        let (delivery, event_id) = (leased.id, leased.event_id);
        let (started_at, started) = (self.clock.now(), Instant::now());
        let formed = self.endpoint.form.form(leased.payload, leased.model).await;
        let (body, sent) = match formed {
            Ok(Formed::Unwanted) => return self.filtered(delivery, lease),
            Ok(Formed::Whole(text)) => (Ok(Bytes::from(text)), None),
            Ok(Formed::Changed(text)) => (Ok(Bytes::from(text.clone())), Some(text)),
            Err(error) => (Err(error), None),
        };
        let attempted = match &body {
            Ok(body) => self.send(&event_id, body.clone()).await,
            Err(error) => Attempted::unanswered(error.to_string()),
        };
        let duration = started.elapsed();
        let next = self
            .endpoint
            .retry
            .next(number, attempted.tried, random::fraction());
        // A message that cannot be made says nothing of the endpoint.
        let turn = body.is_ok().then(|| self.health.note(next));
        if next != Next::Delivered {
            self.log_failure(&event_id, number, &attempted, next);
        }
        let now = self.clock.now();
        let (status, due_at) = self.what_follows(next, now).await;
        let endpoint = &self.endpoint.name;
        let mut notices = Vec::new();
        if next == Next::GiveUp {
            let given_up = GivenUp {
                endpoint,
                error: &attempted.error,
                status_code: attempted.status_code,
                attempts: number,
                payload: body
                    .as_ref()
                    .ok()
                    .and_then(|body| serde_json::from_slice(body).ok()),
            };
            notices.extend(self.notices.given_up(&given_up, now));
        }
        if let Some(turn) = turn {
            notices.extend(self.notices.turned(turn, endpoint, &attempted.error, now));
        }
        Settlement {
            delivery,
            lease,
            status,
            due_at,
            now,
            attempt: Some(NewAttempt {
                number,
                started_at,
                duration,
                status_code: attempted.status_code,
                error: attempted.error,
            }),
            sent,
            notices,
        }
    }

    async fn send(&self, event_id: &str, body: Bytes) -> Attempted {
        let message = Message {
            event_id: event_id.to_owned(),
            sent_at: self.clock.now(),
            body,
        };
        let sending = self.endpoint.sink.send(&message);
        match tokio::time::timeout(self.endpoint.timeout, sending).await {
            Ok(attempted) => attempted,
            Err(_) => Attempted::unanswered(format!(
                "there was no whole answer within {} s",
                self.endpoint.timeout.as_secs()
            )),
        }
    }

    fn filtered(&self, delivery: i64, lease: Arc<str>) -> Settlement {
        Settlement {
            delivery,
            lease,
            status: DeliveryStatus::Filtered,
            due_at: None,
            now: self.clock.now(),
            attempt: None,
            sent: None,
            notices: Vec::new(),
        }
    }

    async fn what_follows(
        &self,
        next: Next,
        now: Timestamp,
    ) -> (DeliveryStatus, Option<Timestamp>) {
        match next {
            Next::Delivered => (DeliveryStatus::Delivered, None),
            Next::Retry(wait) => (DeliveryStatus::Retrying, Some(now.saturating_add(wait))),
            Next::GiveUp => (DeliveryStatus::GaveUp, None),
            Next::Pause => {
                let (outbox, name) = (Arc::clone(&self.outbox), self.endpoint.name.clone());
                // A connection that is opened on these threads would be theirs, and everybody's later.
                let pausing = self.main.spawn(async move {
                    let paused = outbox.pause(&name, "it answered 410 Gone", now).await;
                    if let Err(error) = paused {
                        tracing::warn!(
                            endpoint = name,
                            error = chain(&error),
                            "the endpoint could not be paused; it is tried again with the next delivery"
                        );
                    }
                });
                // What cannot be waited for any more is tried again with the next delivery, too.
                let _ended = pausing.await;
                (DeliveryStatus::Retrying, Some(now))
            }
        }
    }

    fn log_failure(&self, event: &str, attempt: u32, attempted: &Attempted, next: Next) {
        let endpoint = &self.endpoint.name;
        let (status, error) = (attempted.status_code, &attempted.error);
        match next {
            Next::Retry(wait) => tracing::info!(
                endpoint,
                event,
                attempt,
                status,
                error,
                "a delivery failed and is tried again in {} s",
                wait.as_secs()
            ),
            Next::Pause => tracing::warn!(
                endpoint,
                event,
                attempt,
                status,
                "the endpoint answered 410 Gone and is paused; `endpoints resume` goes on"
            ),
            Next::GiveUp | Next::Delivered => tracing::error!(
                endpoint,
                event,
                attempt,
                status,
                error,
                "a delivery failed and is given up; `deliveries replay` brings it back"
            ),
        }
    }
}
