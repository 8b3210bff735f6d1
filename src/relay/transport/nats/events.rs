//! The events of one connection that decide the results of its attempts.

use std::sync::Arc;

use async_nats::{Event, ServerError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// The maximum number of refused subjects that an attempt has not looked at yet. An attempt that misses one times out.
const MAX_UNREAD_REFUSALS: usize = 256;

/// The beginning of the server's report if the user may not subscribe.
const SUBSCRIPTION_DENIED: &str = "permissions violation for subscription to \"";

/// The beginning of the server's report if the user may not publish.
const PUBLISH_DENIED: &str = "permissions violation for publish to \"";

/// The events of a connection. The server reports a missing permission only here: the attempt would just time out.
pub(super) struct ConnectionEvents {
    /// Is cancelled when the library reports that the connection is lost.
    pub(super) lost: CancellationToken,
    /// Is cancelled when the server refuses the subscription on which it would confirm messages.
    pub(super) inbox_denied: CancellationToken,
    refused_subjects: broadcast::Sender<Arc<str>>,
}

impl ConnectionEvents {
    pub(super) fn new() -> Self {
        Self {
            lost: CancellationToken::new(),
            inbox_denied: CancellationToken::new(),
            refused_subjects: broadcast::Sender::new(MAX_UNREAD_REFUSALS),
        }
    }

    /// Returns whether the server can still confirm messages on this connection. After a change of the permissions, a new
    /// connection is needed.
    pub(super) fn can_confirm(&self) -> bool {
        !self.lost.is_cancelled() && !self.inbox_denied.is_cancelled()
    }

    /// Starts to watch for a refusal of a subject. Call it before the message is published.
    pub(super) fn watch_refusals(&self) -> Refusals {
        Refusals(self.refused_subjects.subscribe())
    }

    /// Handles an event of the library.
    pub(super) fn handle(&self, endpoint: &str, event: &Event) {
        match event {
            Event::Disconnected | Event::Closed => self.lost.cancel(),
            Event::ServerError(error) => {
                self.handle_error(error);
                // The text before the first quote. The quoted subject after it has values of the message.
                let error = error.to_string();
                let error = error.split('"').next().unwrap_or_default().trim_end();
                tracing::warn!(endpoint, error, "NATS server reported an error");
            }
            _ => {}
        }
    }

    fn handle_error(&self, error: &ServerError) {
        let ServerError::Other(text) = error else {
            return;
        };
        let is = |prefix: &str| {
            let begin = text.get(..prefix.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
        };
        if is(SUBSCRIPTION_DENIED) {
            // The sink has one subscription: its inbox.
            self.inbox_denied.cancel();
        } else if is(PUBLISH_DENIED) {
            let subject = text[PUBLISH_DENIED.len()..].split('"').next();
            // An error means that no attempt is waiting.
            let _no_receiver = self
                .refused_subjects
                .send(subject.unwrap_or_default().into());
        }
    }
}

/// The refused subjects since a point in time.
pub(super) struct Refusals(broadcast::Receiver<Arc<str>>);

impl Refusals {
    /// Waits until the server refuses this subject.
    pub(super) async fn refused(mut self, subject: &str) {
        loop {
            match self.0.recv().await {
                Ok(refused) if *refused == *subject => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The connection has ended, which the attempt notices in another way.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn finds_denied_inbox_and_subject() {
        for (text, inbox_denied, subject_refused) in [
            (
                r#"Permissions Violation for Subscription to "_INBOX.a.*""#,
                true,
                false,
            ),
            (r#"Permissions Violation for Publish to "a.b""#, false, true),
            (
                r#"Permissions Violation for Publish to "a.c""#,
                false,
                false,
            ),
            ("Permissions Violation", false, false),
            ("Überlauf", false, false),
        ] {
            let events = ConnectionEvents::new();
            let refusals = events.watch_refusals();

            events.handle_error(&ServerError::Other(text.to_owned()));

            assert_eq!(events.inbox_denied.is_cancelled(), inbox_denied, "{text}");
            let refused = refusals.refused("a.b").now_or_never().is_some();
            assert_eq!(refused, subject_refused, "{text}");
        }
    }
}
