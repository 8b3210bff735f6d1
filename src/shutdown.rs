//! Shutdown: signals request it, a deadline forces it, the exit code tells how it went.

use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config_types::Seconds;

/// The `shutdown` section of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long the work in flight may take after the first request to shut down.
    pub deadline_secs: Seconds<0, 3600>,
}

/// Why a run of the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// A graceful shutdown: all work in flight was finished. Exit code 0.
    Clean,
    /// A task ended before it was asked to, or panicked. Exit code 1.
    Crashed,
    /// A forced shutdown: a second signal or the deadline cut off the work in flight. Exit code 3, since 2 is a wrong command
    /// line or configuration.
    Forced,
}

impl ExitReason {
    /// Returns the process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Crashed => 1,
            Self::Forced => 3,
        }
    }
}

/// The two requests to shut down, as tokens that a run waits for.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled to stop gracefully: accept nothing new, and finish the work in flight.
    pub graceful: CancellationToken,
    /// Cancelled to stop now, whatever is in flight.
    pub forced: CancellationToken,
}

impl Shutdown {
    /// Turns signals into requests: the first SIGTERM or SIGINT is graceful, the second one forced.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (terminate, interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        // Not tracked: the task never ends, and only waits for signals.
        tokio::spawn(self.clone().listen(terminate, interrupt));
        Ok(())
    }

    async fn listen(self, mut terminate: Signal, mut interrupt: Signal) {
        for token in [&self.graceful, &self.forced] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "received {name}");
            token.cancel();
        }
    }

    /// Waits until the work in flight is cut off: `deadline` after the graceful request, or at the forced one.
    pub async fn deadline_reached(&self, deadline: Duration) {
        self.graceful.cancelled().await;
        tokio::select! {
            () = self.forced.cancelled() => {}
            () = tokio::time::sleep(deadline) => {}
        }
    }
}
