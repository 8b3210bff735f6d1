//! Stopping: signals ask, tasks are tracked, a deadline forces.

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::setting::Bounded;

/// The `shutdown` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long what is in flight may take to end.
    pub deadline_secs: Bounded<0, 3600>,
}

/// How a run ended, as the process's exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything in flight was finished. 0.
    Clean,
    /// A part of the service ended by itself. 1.
    Crashed,
    /// A second signal, or the deadline, cut off what was in flight. 3. (2 is a wrong command line or configuration.)
    Forced,
}

impl Ending {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Crashed => 1,
            Self::Forced => 3,
        }
    }
}

/// What asks a run to stop: gently, and then at once.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take nothing new in, and finish what is in flight.
    pub gently: CancellationToken,
    /// Do not wait any longer.
    pub at_once: CancellationToken,
}

impl Stop {
    /// Turns SIGTERM and SIGINT into requests to stop: the first gently, the second at once.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (terminate, interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        // Not tracked: it has no end of its own, and waits for nothing but signals.
        tokio::spawn(self.clone().listen(terminate, interrupt));
        Ok(())
    }

    async fn listen(self, mut terminate: Signal, mut interrupt: Signal) {
        for token in [&self.gently, &self.at_once] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "received {name}");
            token.cancel();
        }
    }

    /// Returns when nobody waits any longer: that long after the first request to stop, or at the second.
    pub async fn expired(&self, deadline: Duration) {
        self.gently.cancelled().await;
        tokio::select! {
            () = self.at_once.cancelled() => {}
            () = tokio::time::sleep(deadline) => {}
        }
    }
}
