//! A message: an event as it is sent to one endpoint, exact bytes.
//!
//! First fields are taken away and masked, then the endpoint's condition is asked, then its transformation: both see only what the
//! endpoint may see, so that nothing comes back through them.

use bytes::Bytes;

use super::program::{Failed, Program};
use super::shape::Shapes;
use crate::domain::event::Model;
use crate::domain::timestamp::Timestamp;

/// What is sent.
pub(super) struct Message {
    /// The event's id: the same over every endpoint, try and replay.
    pub(super) event_id: String,
    /// When it is signed and sent.
    pub(super) sent_at: Timestamp,
    /// The bytes that are signed and sent.
    pub(super) body: Bytes,
}

/// What an endpoint's settings make of events.
#[derive(Default)]
pub(super) struct Form {
    pub(super) shapes: Shapes,
    pub(super) when: Option<Program>,
    pub(super) transform: Option<Program>,
}

/// What an event becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Formed {
    /// What it is.
    Whole(String),
    /// Something else.
    Changed(String),
    /// Nothing: the endpoint does not want it.
    Unwanted,
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotFormed {
    #[error("the event is no JSON")]
    NoJson,
    #[error("its `when` {0}")]
    When(Failed),
    #[error("its `transform` {0}")]
    Transform(Failed),
}

impl Form {
    /// What the endpoint gets of this event.
    pub(super) async fn form(
        &self,
        event: String,
        model: Option<Model>,
    ) -> Result<Formed, NotFormed> {
        let shape = model.map(|model| self.shapes.of(model));
        let mut message = Formed::Whole(event);
        if let (Some(shape), Formed::Whole(event)) =
            (shape.filter(|shape| !shape.is_whole()), &message)
        {
            let mut event = serde_json::from_str(event).map_err(|_| NotFormed::NoJson)?;
            shape.apply(&mut event);
            message = Formed::Changed(event.to_string());
        }
        if let Some(when) = &self.when {
            let wanted = when
                .run(message.text().to_owned())
                .await
                .map_err(NotFormed::When)?;
            // What jq takes for true: everything but false and null.
            if !wanted.is_some_and(|wanted| wanted != "false" && wanted != "null") {
                return Ok(Formed::Unwanted);
            }
        }
        if let Some(transform) = &self.transform {
            let made = transform
                .run(message.text().to_owned())
                .await
                .map_err(NotFormed::Transform)?;
            message = made.map_or(Formed::Unwanted, Formed::Changed);
        }
        Ok(message)
    }
}

impl Formed {
    fn text(&self) -> &str {
        match self {
            Self::Whole(text) | Self::Changed(text) => text,
            Self::Unwanted => "",
        }
    }
}
