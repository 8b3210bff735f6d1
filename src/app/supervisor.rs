//! The messages to systemd (`Type=notify`, see `sd_notify(3)`).

use sd_notify::NotifyState;

use crate::telemetry::chain;

/// The receiver of messages about the state of the service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Supervisor {
    /// Whether systemd waits for messages.
    pub(super) is_waiting: bool,
}

impl Supervisor {
    /// Reports a state, if systemd waits for it.
    pub(super) fn notify(self, state: NotifyState<'_>) {
        if !self.is_waiting {
            return;
        }
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(error = chain(&error), "cannot report the state to systemd");
        }
    }
}
